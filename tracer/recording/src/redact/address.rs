//! Pseudonyms of addresses that keep networks together.
//!
//! The scheme is Crypto-PAn: J. Xu, J. Fan, M. Ammar, S. Moon, "Prefix-Preserving IP Address Anonymization:
//! Measurement-Based Security Evaluation and a New Cryptography-Based Scheme", ICNP 2002. A bit of an address is flipped or
//! not as AES decides of the bits before it: two addresses have as long a prefix in common as their pseudonyms have.
//!
//! whyrst adds that the well-known networks stay what they are, because a private address has to be seen to be private. A
//! bit that is on the way to such a network is never flipped; the others decide by themselves.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};

use super::key::Key;

/// Most pseudonyms that are kept for the next time: they are computed again, and the same, when they are forgotten.
const REMEMBERED: usize = 1 << 16;

/// Networks that stay what they are, of each family: their first bits and how many these are.
struct Family {
    width: u32,
    fixed: &'static [(u128, u32)],
}

const fn v4(a: u8, b: u8) -> u128 {
    (a as u128) << 120 | (b as u128) << 112
}

/// RFC 6890 and RFC 5771: this network, private, shared by carriers' NATs, loopback, link-local, multicast, reserved.
const IPV4: Family = Family {
    width: 32,
    fixed: &[
        (v4(0, 0), 8),
        (v4(10, 0), 8),
        (v4(100, 64), 10),
        (v4(127, 0), 8),
        (v4(169, 254), 16),
        (v4(172, 16), 12),
        (v4(192, 168), 16),
        (v4(224, 0), 4),
        (v4(240, 0), 4),
    ],
};

/// RFC 4291, RFC 4193: the world, unique local, link-local, multicast; and [`WITH_IPV4`].
const IPV6: Family = Family {
    width: 128,
    fixed: &[
        (WITH_IPV4[0], 96),
        (WITH_IPV4[1], 96),
        (WITH_IPV4[2], 96),
        (0x2000 << 112, 3),
        (0xfc00 << 112, 8),
        (0xfd00 << 112, 8),
        (0xfe80 << 112, 10),
        (0xff00 << 112, 8),
    ],
};

/// Prefixes of 96 bits that an IPv4 address comes after: `::`, which `::1` has too, and IPv4-mapped (RFC 4291 §2.5.5), and
/// NAT64 (RFC 6052 §2.1).
const WITH_IPV4: [u128; 3] = [0, 0xffff << 32, 0x0064_ff9b << 96];

/// Pseudonyms of addresses.
pub(super) struct Addresses {
    v4: Scheme,
    v6: Scheme,
    known: HashMap<IpAddr, IpAddr>,
}

impl Addresses {
    pub(super) fn new(key: &Key) -> Self {
        Self {
            v4: Scheme::new(&key.derive("ipv4", &[]), &IPV4),
            v6: Scheme::new(&key.derive("ipv6", &[]), &IPV6),
            known: HashMap::new(),
        }
    }

    /// The pseudonym of an address.
    pub(super) fn pseudonym(&mut self, address: IpAddr) -> IpAddr {
        if let Some(known) = self.known.get(&address) {
            return *known;
        }
        let pseudonym = self.mapped(address, Scheme::pseudonym);
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(address, pseudonym);
        pseudonym
    }

    /// The address with this pseudonym.
    pub(super) fn original(&self, pseudonym: IpAddr) -> IpAddr {
        self.mapped(pseudonym, Scheme::original)
    }

    fn mapped(&self, address: IpAddr, map: fn(&Scheme, u128) -> u128) -> IpAddr {
        let v4 = |address: Ipv4Addr| {
            if says_nothing(address) {
                return address;
            }
            Ipv4Addr::from_bits((map(&self.v4, u128::from(address.to_bits()) << 96) >> 96) as u32)
        };
        match address {
            IpAddr::V4(address) => v4(address).into(),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                let prefix = bits >> 32 << 32;
                if !WITH_IPV4.contains(&prefix) {
                    return Ipv6Addr::from_bits(map(&self.v6, bits)).into();
                }
                let inside = v4(Ipv4Addr::from_bits((bits & 0xffff_ffff) as u32));
                Ipv6Addr::from_bits(prefix | u128::from(inside.to_bits())).into()
            }
        }
    }
}

/// Whether an address is of no host in particular, and stays: "this" network, loopback, reserved and broadcast.
const fn says_nothing(address: Ipv4Addr) -> bool {
    matches!(address.octets()[0], 0 | 127 | 240..)
}

/// Crypto-PAn with one key. Addresses are the high bits of a `u128`.
struct Scheme {
    cipher: Aes128,
    /// What follows the bits of the address in a block.
    pad: u128,
    family: &'static Family,
}

impl Scheme {
    /// The first half of `key` is the cipher's; the pad is the second, enciphered.
    fn new(key: &[u8; 32], family: &'static Family) -> Self {
        let (mut half, mut rest) = ([0; 16], [0; 16]);
        half.copy_from_slice(&key[..16]);
        rest.copy_from_slice(&key[16..]);
        let cipher = Aes128::new(&half.into());
        let pad = encipher(&cipher, u128::from_be_bytes(rest));
        Self { cipher, pad, family }
    }

    fn pseudonym(&self, address: u128) -> u128 {
        (0..self.family.width).fold(address, |pseudonym, bit| pseudonym ^ self.flip(address, bit))
    }

    /// Each bit that is found again decides with those before it on the next.
    fn original(&self, pseudonym: u128) -> u128 {
        (0..self.family.width).fold(pseudonym, |address, bit| address ^ self.flip(address, bit))
    }

    /// The bit, where it is flipped, and 0 where it stays. Only the bits of the address before it decide.
    fn flip(&self, address: u128, bit: u32) -> u128 {
        if self.family.is_fixed(address, bit) {
            return 0;
        }
        // The bits before this one, and the pad's after that.
        let behind = u128::MAX.checked_shr(bit).unwrap_or(0);
        let block = address & !behind | self.pad & behind;
        encipher(&self.cipher, block) >> 127 << (127 - bit)
    }
}

impl Family {
    /// Whether the bits before this one begin a network that stays, and this one belongs to it or could lead there.
    fn is_fixed(&self, address: u128, bit: u32) -> bool {
        self.fixed.iter().any(|(network, length)| {
            let differs = (address ^ network).leading_zeros();
            bit < *length && differs >= bit
        })
    }
}

fn encipher(cipher: &Aes128, block: u128) -> u128 {
    let mut block = block.to_be_bytes().into();
    cipher.encrypt_block(&mut block);
    u128::from_be_bytes(block.into())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use ipnet::IpNet;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{Addresses, Family, Key, Scheme};

    fn addresses() -> Addresses {
        Addresses::new(&Key::new([7; 32]))
    }

    /// Key and addresses of the sample that comes with the authors' own implementation.
    #[rstest]
    #[case("128.11.68.132", "135.242.180.132")]
    #[case("129.118.74.4", "134.136.186.123")]
    #[case("130.132.252.244", "133.68.164.234")]
    #[case("141.223.7.43", "141.167.8.160")]
    #[case("141.233.145.108", "141.129.237.235")]
    fn as_published(#[case] address: Ipv4Addr, #[case] expected: Ipv4Addr) {
        const KEY: [u8; 32] = [
            21, 34, 23, 141, 51, 164, 207, 128, 19, 10, 91, 22, 73, 144, 125, 16, 216, 152, 143, 131, 121, 121, 101,
            39, 98, 87, 76, 45, 42, 132, 34, 2,
        ];
        let scheme = Scheme::new(&KEY, &Family { width: 32, fixed: &[] });
        let found = scheme.pseudonym(u128::from(address.to_bits()) << 96) >> 96;
        assert_eq!(Ipv4Addr::from_bits(u32::try_from(found).unwrap()), expected);
    }

    const CLASSES: [&str; 15] = [
        "::/96",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2000::/3",
        "fd00::/8",
        "fe80::/10",
        "ff00::/8",
        "::ffff:0:0/96",
        "64:ff9b::/96",
    ];

    /// Which of the classes an address is in.
    fn class(address: IpAddr) -> Option<usize> {
        CLASSES.iter().position(|class| class.parse::<IpNet>().unwrap().contains(&address))
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        let biased = any::<(u128, prop::sample::Index)>().prop_map(|(bits, which)| {
            match which.get(&CLASSES).parse::<IpNet>().unwrap() {
                IpNet::V4(net) => {
                    let host = u32::from(net.hostmask());
                    IpAddr::V4(Ipv4Addr::from_bits(u32::from(net.network()) | (bits as u32 & host)))
                }
                IpNet::V6(net) => {
                    let host = u128::from(net.hostmask());
                    IpAddr::V6(Ipv6Addr::from_bits(u128::from(net.network()) | (bits & host)))
                }
            }
        });
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
            biased
        ]
    }

    fn common(one: IpAddr, other: IpAddr) -> Option<u32> {
        match (one, other) {
            (IpAddr::V4(one), IpAddr::V4(other)) => Some((one.to_bits() ^ other.to_bits()).leading_zeros()),
            (IpAddr::V6(one), IpAddr::V6(other)) => Some((one.to_bits() ^ other.to_bits()).leading_zeros()),
            _ => None,
        }
    }

    proptest! {
        /// A private address becomes a private one, one of the world one of the world, and so on.
        #[test]
        fn classes_stay(address in any_address()) {
            prop_assert_eq!(class(addresses().pseudonym(address)), class(address));
        }

        /// Whoever has the key finds the address again.
        #[test]
        fn pseudonyms_lead_back(address in any_address()) {
            let mut addresses = addresses();
            let pseudonym = addresses.pseudonym(address);
            prop_assert_eq!(addresses.original(pseudonym), address);
        }

        /// As long a prefix in common as before, and no two addresses with one pseudonym.
        #[test]
        fn prefixes_stay(one in any_address(), bit in 0_u32..128) {
            let other = match one {
                IpAddr::V4(one) => IpAddr::V4(Ipv4Addr::from_bits(one.to_bits() ^ 1 << (bit % 32))),
                IpAddr::V6(one) => IpAddr::V6(Ipv6Addr::from_bits(one.to_bits() ^ 1 << bit)),
            };
            let mut addresses = addresses();
            let pseudonyms = (addresses.pseudonym(one), addresses.pseudonym(other));
            prop_assert_eq!(common(pseudonyms.0, pseudonyms.1), common(one, other));
        }

        /// An IPv4 address in IPv6's clothes has the same pseudonym in the same clothes.
        #[test]
        fn mapped_addresses_agree(bits in any::<u32>()) {
            let mut addresses = addresses();
            let plain = Ipv4Addr::from_bits(bits);
            let mapped = addresses.pseudonym(plain.to_ipv6_mapped().into());
            prop_assert_eq!(mapped.to_canonical(), addresses.pseudonym(plain.into()));
        }
    }

    #[test]
    fn another_key_gives_other_pseudonyms() {
        let address = "203.0.113.7".parse().unwrap();
        let other = Addresses::new(&Key::new([8; 32])).pseudonym(address);
        assert_ne!(addresses().pseudonym(address), other);
        assert_eq!(addresses().pseudonym(address), addresses().pseudonym(address));
    }

    #[test]
    fn what_is_everywhere_the_same_stays() {
        for text in
            ["127.0.0.1", "0.0.0.0", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "127.9.9.9", "240.0.0.1"]
        {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(addresses().pseudonym(address), address);
        }
    }
}
