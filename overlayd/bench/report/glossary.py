"""The words of the report, each in a sentence."""

GLOSSARY = (
    (
        "scenario",
        "one data path between two containers (or hosts), with its settings; compared with the others in turn",
    ),
    ("round", "every metric of every scenario once; figures are medians over all rounds"),
    (
        "ratio, 0.82x",
        "a figure divided by the base scenario's of the same round, so that the machine's speed cancels out",
    ),
    ("spread", "the least and the most of all rounds: the thin line over a bar, the small figures in tables"),
    (
        "noise",
        "a difference inside the spread: rounds disagree on which is greater; marked ≈, without a ratio",
    ),
    ("s/GB", "seconds of processor time, all cores together, for each gigabyte that arrives"),
    ("superpacket", "up to 64 KB that the kernel handles as one packet and segments late, or never on a veth"),
    ("segment, GSO, TSO, USO", "to divide a superpacket into packets of the MTU, in software or in the network card"),
    ("coalesce, GRO", "to merge packets of one flow into a superpacket on the receiving side"),
    ("copy", "every byte is read and written once by a processor, as from a program into the kernel"),
    (
        "wake-up",
        "a sleeping process gets a processor because a packet has come: microseconds, most on a core that sleeps",
    ),
    ("TUN", "a network device whose packets a program reads and writes: how udp mode gets at containers' packets"),
    ("TCP_RR", "request and response of one byte each, one at a time: latency as a program sees it"),
    ("p50, p99, p99.9", "the latency that 50 %, 99 %, 99.9 % of the transactions do not exceed"),
    ("full blast", "UDP sent as fast as the sender can; what the receiver loses is lost in queues on the way"),
    (
        "retransmits, reordering, DSACK",
        "segments sent again; out of order; sent again though the first one had arrived",
    ),
    ("flame graph", "stacks of functions by perf: the wider a box, the more time in it and in what stands below it"),
)
