//! Values of options as iptables-save prints them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use tracer_model::ruleset::Family;
use tracer_model::ruleset::audit::Translation;

/// A number in decimal or hexadecimal.
pub(super) fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // `from_str_radix` takes a sign.
        Some(digits) if digits.starts_with('+') => None,
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A number of one byte.
pub(super) fn byte(text: &str) -> Option<u8> {
    number(text)?.try_into().ok()
}

/// `VALUE[/MASK]`.
pub(super) fn masked(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

/// `FROM[:TO]`, where either may be left out.
pub(super) fn range(text: &str) -> Option<(u16, u16)> {
    let bound = |text: &str, otherwise| if text.is_empty() { Some(otherwise) } else { text.parse().ok() };
    match text.split_once(':') {
        Some((from, to)) => Some((bound(from, 0)?, bound(to, u16::MAX)?)),
        None => text.parse().ok().map(|port| (port, port)),
    }
}

/// `A,B,C`, each looked up.
pub(super) fn list<T>(text: &str, one: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(one).collect()
}

/// The bytes of an address of this family.
pub(super) fn octets(address: &str, family: Family) -> Option<Vec<u8>> {
    match (address.parse().ok()?, family) {
        (IpAddr::V4(address), Family::Ip) => Some(address.octets().to_vec()),
        (IpAddr::V6(address), Family::Ip6) => Some(address.octets().to_vec()),
        _ => None,
    }
}

/// An address with the length of a prefix, or with a mask: both as bytes.
pub(super) fn network(text: &str, family: Family) -> Option<(Vec<u8>, Vec<u8>)> {
    let (address, mask) = text.split_once('/').unwrap_or((text, ""));
    let address = octets(address, family)?;
    let mask = match mask.parse::<usize>() {
        Ok(length) if length <= address.len() * 8 => {
            (0..address.len()).map(|at| prefix_byte(length.saturating_sub(at * 8))).collect()
        }
        Ok(_) => return None,
        Err(_) if !text.contains('/') => vec![0xff; address.len()],
        Err(_) => octets(mask, family)?,
    };
    // The tool masks the address as well.
    let address = address.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
    Some((address, mask))
}

/// The byte of a mask that has so many bits left.
fn prefix_byte(bits: usize) -> u8 {
    match bits {
        0 => 0,
        1..=7 => 0xff << (8 - bits),
        _ => 0xff,
    }
}

/// `ADDRESS[-ADDRESS][:PORT[-PORT]]`, an IPv6 address with ports in brackets.
pub(in crate::iptables) fn translation(text: &str, family: Family) -> Option<Translation> {
    let (addresses, ports) = match (family, text.strip_prefix('[')) {
        (Family::Ip6, Some(rest)) => {
            let (addresses, rest) = rest.split_once(']')?;
            (addresses, rest.strip_prefix(':'))
        }
        (Family::Ip6, None) => (text, None),
        _ => text.split_once(':').map_or((text, None), |(addresses, ports)| (addresses, Some(ports))),
    };
    let address =
        |text: &str| text.parse::<IpAddr>().ok().filter(|address| address.is_ipv4() == (family != Family::Ip6));
    let to = match addresses.split_once('-') {
        _ if addresses.is_empty() => Vec::new(),
        Some((first, last)) => vec![address(first)?..=address(last.trim_start_matches('['))?],
        None => vec![address(addresses)?..=address(addresses)?],
    };
    // Behind a slash a DNAT rule may say where its range begins to be used.
    let ports = ports.map(|text| ports_of(text.split('/').next().unwrap_or_default()).ok_or(()));
    Some(Translation { to, ports: ports.transpose().ok()?, output: None })
}

/// `PORT[-PORT]`.
pub(in crate::iptables) fn ports_of(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tracer_model::ruleset::Family::{self, Ip, Ip6};

    use super::{masked, network, number, range};

    #[rstest]
    #[case(Ip, "10.1.2.3/8", Some(([10, 0, 0, 0], [255, 0, 0, 0])))]
    #[case(Ip, "10.1.2.3/255.0.255.0", Some(([10, 0, 2, 0], [255, 0, 255, 0])))]
    #[case(Ip, "10.1.2.3", Some(([10, 1, 2, 3], [255, 255, 255, 255])))]
    #[case(Ip, "10.1.2.3/9", Some(([10, 0, 0, 0], [255, 0x80, 0, 0])))]
    #[case(Ip, "10.1.2.3/33", None)]
    #[case(Ip, "10.1.2.3/", None)]
    #[case(Ip, "fd00::/8", None)]
    #[case(Ip6, "10.0.0.0/8", None)]
    #[case(Ip6, "host.example", None)]
    fn networks(#[case] family: Family, #[case] text: &str, #[case] expected: Option<([u8; 4], [u8; 4])>) {
        assert_eq!(network(text, family), expected.map(|(address, mask)| (address.to_vec(), mask.to_vec())));
    }

    #[test]
    fn a_network_of_ipv6() {
        let (address, mask) = network("fd00:0:0:1::/60", Ip6).unwrap();
        assert_eq!((address[0], address[7], mask[6], mask[7], mask[8]), (0xfd, 0, 0xff, 0xf0, 0));
    }

    #[test]
    fn numbers_and_ranges() {
        assert_eq!((number("0xfF"), number("12"), number("-1"), number("0x+1")), (Some(255), Some(12), None, None));
        assert_eq!((masked("0x1/0xf0"), masked("3")), (Some((1, 0xf0)), Some((3, u32::MAX))));
        assert_eq!((range("80"), range(":80"), range("80:")), (Some((80, 80)), Some((0, 80)), Some((80, u16::MAX))));
        assert_eq!((range("http"), range("70000"), range("!")), (None, None, None));
    }
}
