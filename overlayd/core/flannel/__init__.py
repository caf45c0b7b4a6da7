"""flannel's data in etcd, as pure functions: the network's configuration, subnet keys and lease values.

    PREFIX/config                                 {"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":1}}
    PREFIX/subnets/10.5.52.0-24                   {"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan",
    PREFIX/subnets/10.5.52.0-24&fc00:0:0:34::-64   "BackendData":{"VNI":1,"VtepMAC":"06:47:0f:9c:01:2a"}}

They are written exactly as flannel writes them and read as Go's encoding/json reads them: names match in any case. What
flannel does not know stands in a record of our own: `core.host_record`.
"""
