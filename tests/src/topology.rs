//! The lab's network: a client, a gateway that translates its address, and a server.
//!
//! ```text
//! client  c0 10.0.0.2 ── 10.0.0.1 lan0  gateway  wan0 192.0.2.1 ── 192.0.2.2 s0  server
//!            fd00:1::2 ── fd00:1::1                2001:db8::1 ── 2001:db8::2
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::netns::{LOOPBACK, Namespace};

/// The client's address.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
/// The address that the gateway translates it to.
pub const NAT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The server's address.
pub const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// The server's IPv6 address.
pub const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

/// Another machine on the client's network.
pub const INNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3));

/// How the gateway translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// nftables, masquerade, both families.
    NftMasquerade,
    /// iptables, SNAT to [`NAT`].
    IptablesSnat,
}

/// What an interface of the gateway is made of. It has the same name in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ingress {
    /// One end of a cable.
    #[default]
    Cable,
    /// A VLAN on the cable; the other end speaks it too.
    Vlan,
    /// A bridge that the cable is a port of.
    Bridge,
}

/// How a lab is wired up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wiring {
    /// What the names of its namespaces end with, so that there can be two labs at once.
    pub suffix: &'static str,
    /// The gateway's interface to the client.
    pub lan: Ingress,
    /// The gateway's interface to the server.
    pub wan: Ingress,
}

/// The three namespaces, wired up.
#[derive(Debug)]
pub struct Lab {
    /// The client.
    pub client: Namespace,
    /// The gateway.
    pub gateway: Namespace,
    /// The server.
    pub server: Namespace,
}

impl Lab {
    /// Builds the network, with a gateway that translates.
    pub fn build(nat: Nat) -> Result<Self> {
        let lab = Self::wire(Wiring::default())?;
        lab.translate(nat)?;
        Ok(lab)
    }

    /// Builds the network; the gateway forwards, without a look at connections.
    pub fn wire(wiring: Wiring) -> Result<Self> {
        let names = ["client", "gateway", "server"].map(|role| format!("{role}{}", wiring.suffix));
        let [client, gateway, server] = Namespace::create_all(names)?;
        let lab = Self { client, gateway, server };
        let Self { client, gateway, .. } = &lab;
        connect((client, "c0"), (gateway, "lan0"), wiring.lan)?;
        client.ip_all(&[
            LOOPBACK,
            "address add 10.0.0.2/24 dev c0",
            "address add fd00:1::2/64 dev c0 nodad",
            "route add default via 10.0.0.1",
            "route add default via fd00:1::1",
        ])?;
        gateway.ip_all(&[LOOPBACK, "address add 10.0.0.1/24 dev lan0", "address add fd00:1::1/64 dev lan0 nodad"])?;
        lab.connect_server(wiring.wan)?;
        for sysctl in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            gateway.sysctl(sysctl, "1")?;
        }
        Ok(lab)
    }

    /// Connects the server to the gateway, where it is not.
    pub fn connect_server(&self, wan: Ingress) -> Result<()> {
        connect((&self.server, "s0"), (&self.gateway, "wan0"), wan)?;
        // Without duplicate address detection an IPv6 address is usable at once.
        self.gateway.ip_all(&["address add 192.0.2.1/24 dev wan0", "address add 2001:db8::1/64 dev wan0 nodad"])?;
        self.server.ip_all(&[LOOPBACK, "address add 192.0.2.2/24 dev s0", "address add 2001:db8::2/64 dev s0 nodad"])
    }

    /// Makes the gateway translate.
    pub fn translate(&self, nat: Nat) -> Result<()> {
        let gateway = &self.gateway;
        match nat {
            Nat::NftMasquerade => {
                gateway.run(&[
                    "nft",
                    "add table inet nat; \
                     add chain inet nat postrouting { type nat hook postrouting priority srcnat; }; \
                     add rule inet nat postrouting oifname wan0 masquerade",
                ])?;
            }
            Nat::IptablesSnat => {
                let rule = ["-t", "nat", "-A", "POSTROUTING", "-o", "wan0", "-j", "SNAT", "--to-source", "192.0.2.1"];
                gateway.run(&[&["iptables"], rule.as_slice()].concat())?;
            }
        }
        Ok(())
    }

    /// Puts another machine on the client's network, where the gateway's interface is a bridge: [`INNER`], on `n0`.
    pub fn neighbour(&self) -> Result<Namespace> {
        let neighbour = Namespace::create("neighbour")?;
        cable((&neighbour, "n0"), (&self.gateway, "lan2"))?;
        self.gateway.ip("link set lan2 master lan0")?;
        neighbour.ip(&format!("address add {INNER}/24 dev n0"))?;
        neighbour.ip("route add default via 10.0.0.1")?;
        Ok(neighbour)
    }

    /// Puts the client some way off: `milliseconds` from the gateway. A download then always has segments on their way,
    /// whose acknowledgements reach the server after it has been reset.
    pub fn distant_client(&self, milliseconds: u32) -> Result<()> {
        self.delay("lan0", milliseconds)
    }

    /// The same for the server: what the client sends is on its way for a while.
    pub fn distant_server(&self, milliseconds: u32) -> Result<()> {
        self.delay("wan0", milliseconds)
    }

    fn delay(&self, interface: &str, milliseconds: u32) -> Result<()> {
        let delay = format!("{milliseconds}ms");
        let qdisc = ["tc", "qdisc", "add", "dev", interface, "root", "netem", "delay", &delay, "limit", "10000"];
        self.gateway.run(&qdisc).map(drop)
    }

    /// Gives the client a small receive buffer, so that conntrack's idea of its window stays small too.
    pub fn small_client_window(&self) -> Result<()> {
        self.client.sysctl("net.ipv4.tcp_rmem", "4096 16384 32768")
    }
}

/// The server's address with a port.
pub const fn server(port: u16) -> SocketAddr {
    SocketAddr::new(SERVER, port)
}

/// An interface in a namespace.
type At<'a> = (&'a Namespace, &'a str);

/// Connects an end to the gateway.
fn connect((end, interface): At<'_>, (gateway, of_gateway): At<'_>, ingress: Ingress) -> Result<()> {
    const VLAN: u32 = 100;
    let port = format!("{of_gateway}-port");
    match ingress {
        Ingress::Cable => cable((end, interface), (gateway, of_gateway)),
        Ingress::Vlan => {
            let lower = format!("{interface}-port");
            cable((end, &lower), (gateway, &port))?;
            for (namespace, lower, vlan) in [(end, &lower, interface), (gateway, &port, of_gateway)] {
                namespace.ip(&format!("link add link {lower} name {vlan} type vlan id {VLAN}"))?;
                up(namespace, vlan)?;
            }
            Ok(())
        }
        Ingress::Bridge => {
            cable((end, interface), (gateway, &port))?;
            gateway.ip(&format!("link add {of_gateway} type bridge"))?;
            gateway.ip(&format!("link set {port} master {of_gateway}"))?;
            up(gateway, of_gateway)
        }
    }
}

/// A cable between two namespaces.
fn cable((one, interface): At<'_>, (other, of_other): At<'_>) -> Result<()> {
    // Both ends are made inside; a name in the host's namespace would be in the way of the next lab.
    one.ip(&format!("link add {interface} up type veth peer name {of_other} netns {}", other.name()))?;
    plain(one, interface)?;
    up(other, of_other)
}

/// Switches an interface on.
fn up(namespace: &Namespace, interface: &str) -> Result<()> {
    namespace.ip(&format!("link set {interface} up"))?;
    plain(namespace, interface)
}

/// Takes an interface's offloads away.
fn plain(namespace: &Namespace, interface: &str) -> Result<()> {
    // What is seen on a tap is what a wire carries: single segments with real checksums.
    let off = ["tso", "gso", "gro", "tx", "rx"].map(|feature| [feature, "off"]).concat();
    namespace.run(&[&["ethtool", "-K", interface], off.as_slice()].concat()).map(drop)
}
