"""The kernel's constants and structs, by their names in its headers."""

from __future__ import annotations

from struct import Struct

# linux/socket.h
AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10
SOL_NETLINK = 270

# linux/netlink.h
NETLINK_NETFILTER = 12
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK = 0x001, 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400  # of a request to make something
NLM_F_DUMP = 0x300  # of a request to get something
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF

NLMSGHDR = Struct("=IHHII")
"""length, type, flags, sequence, port"""
NLMSGERR = Struct("=i")
"""error (negative errno); then the header of the request"""
NLATTR = Struct("=HH")
"""length, type; then the value, padded to 4 bytes"""

# linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTNLGRP_LINK, RTNLGRP_NEIGH = 1, 3
RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE = 5, 7, 9, 11
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_METRICS, RTA_VIA = 1, 4, 5, 6, 8, 18
RTAX_LOCK, RTAX_MTU = 1, 2
RT_TABLE_MAIN = 254
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255
RTN_UNICAST, RTN_UNREACHABLE = 1, 7
RTPROT_UNSPEC, RTPROT_BOOT, RTPROT_STATIC = 0, 3, 4
RTNH_F_ONLINK = 4
RTM_F_CLONED = 0x200  # what a path has taught the kernel (its MTU), kept as a copy of the route

RTMSG = Struct("=BBBBBBBBI")
"""family, destination's prefix length, source's, TOS, table, protocol, scope, type, flags"""
RTVIA = Struct("=H")
"""family; then the address"""

# linux/neighbour.h
NDA_DST, NDA_LLADDR = 1, 2
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_SELF = 2

NDMSG = Struct("=BBHiHBB")
"""family, padding, padding, interface index, state, flags, type"""

# linux/if.h, linux/if_link.h
IFF_UP, IFF_LOOPBACK, IFF_LOWER_UP = 0x1, 0x8, 0x10000
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_TXQLEN, IFLA_LINKINFO = 1, 3, 4, 10, 13, 18
IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 26, 27, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE = 4  # hairpin
VETH_INFO_PEER = 1  # linux/veth.h
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING = 1, 3, 4, 7
IFLA_VXLAN_PORT, IFLA_VXLAN_LOCAL6, IFLA_VXLAN_GBP, IFLA_VXLAN_COLLECT_METADATA = 15, 17, 23, 25

IFINFOMSG = Struct("=BBHiII")
"""family, padding, device type, index, flags, which of the flags change"""

# linux/if_link.h, linux/ip.h: IPv4's settings of a device, which are files below /proc/sys/net/ipv4/conf as well
IFLA_INET_CONF = 1
IPV4_DEVCONF_ROUTE_LOCALNET = 26

# linux/if_addr.h
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02

IFADDRMSG = Struct("=BBBBI")
"""family, prefix length, flags, scope, interface index"""

# linux/netfilter.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
NFPROTO_INET = 1
NFNLGRP_NFTABLES = 7
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFNL_SUBSYS_NFTABLES = 10  # the high byte of a message's type
NFT_MSG_NEWCHAIN, NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM = 3, 12, 13, 14
NFTA_CHAIN_HOOK = 4
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_DATA_VALUE = 1, 1, 2, 1

NFGENMSG = Struct("!BBH")
"""family, version, resource id in network byte order"""

# linux/netfilter/nfnetlink_conntrack.h, nf_internals.h
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 2, 12, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
CTA_FILTER_F_PROTO_NUM, CTA_FILTER_F_DST_PORT = 1 << 3, 1 << 5

# linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
INET_DIAG_SKV6ONLY, INET_DIAG_CGROUP_ID = 11, 21
TCP_CLOSE, TCP_LISTEN = 7, 10

INET_DIAG_REQ_V2 = Struct("=BBBxI2s2s16s16sI8s")
"""family, protocol, extensions, states, source and destination port and address, interface index, cookie"""
INET_DIAG_MSG = Struct("=BBBB2s2s16s16sI8sIIIII")
"""family, state, timer, retransmissions, ports and addresses and the rest as asked, expiry, queues, user, inode"""
