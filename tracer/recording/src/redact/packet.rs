//! The headers of a packet under other addresses.
//!
//! A checksum is computed again where everything that it covers is at hand and it was right before; otherwise it becomes
//! zero. It is never carried over: where it was not yet finished, as between two ends on one host, it gives away half of what
//! the addresses are.

use std::net::IpAddr;
use std::ops::Range;

use etherparse::checksum::Sum16BitWords;

use tracer_common::wire::Record;
use tracer_model::headers::{Headers, IpVersion, TCP_HEADER};

use super::address::Addresses;

const TCP: u8 = 6;
/// The option that does nothing, of IPv4 and of TCP alike.
const NOP: u8 = 1;
/// Where an IPv4 header has its checksum.
const IPV4_CHECKSUM: Range<usize> = 10..12;
/// Where a TCP header has its checksum.
const TCP_CHECKSUM: Range<usize> = 16..18;

/// Gives a record the headers of another, under other addresses. All else of the records is the same. Nothing is known of
/// bytes that are no headers, and they stay out.
pub(super) fn redact(from: &Record, to: &mut Record, addresses: &mut Addresses) {
    let Some(headers) = Headers::of(from) else { return };
    let (version, network, transport) = (headers.version(), headers.network(), headers.transport());
    to.l3[..network.len()].copy_from_slice(network);
    to.l4[..transport.len()].copy_from_slice(transport);
    for field in [version.source(), version.destination()] {
        if let Some(address) = version.address(&network[field.clone()]) {
            write(addresses.pseudonym(address), &mut to.l3[field]);
        }
    }
    if version == IpVersion::V4 {
        // Routes and time stamps hold addresses (RFC 791 §3.1).
        to.l3[version.header()..network.len()].fill(NOP);
        to.l3[IPV4_CHECKSUM].fill(0);
        if headers.is_whole() && sum(Sum16BitWords::new(), network) == 0 {
            let checksum = sum(Sum16BitWords::new(), &to.l3[..network.len()]);
            to.l3[IPV4_CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        }
    }
    if transport.len() > TCP_HEADER {
        options(&mut to.l4[TCP_HEADER..transport.len()]);
    }
    to.l4[TCP_CHECKSUM].fill(0);
    if tcp_sum(&headers) == Some(0)
        && let Some(checksum) = Headers::of(to).and_then(|headers| tcp_sum(&headers))
    {
        to.l4[TCP_CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Writes an address where there is room for one of its family.
pub(super) fn write(address: IpAddr, room: &mut [u8]) {
    match (address, room.len()) {
        (IpAddr::V4(address), 4) => room.copy_from_slice(&address.octets()),
        (IpAddr::V6(address), 16) => room.copy_from_slice(&address.octets()),
        _ => room.fill(0),
    }
}

/// The checksum over all of a segment without data; none where there is more than the record has.
fn tcp_sum(headers: &Headers<'_>) -> Option<u16> {
    let transport = headers.transport();
    let stated = headers.stated_tcp().filter(|stated| *stated >= TCP_HEADER && *stated == transport.len())?;
    if headers.payload_len() != 0 {
        return None;
    }
    let addresses = headers.version().source().start..headers.version().destination().end;
    let pseudo = Sum16BitWords::new().add_slice(&headers.network()[addresses]);
    Some(sum(pseudo.add_2bytes([0, TCP]).add_2bytes((stated as u16).to_be_bytes()), transport))
}

fn sum(begun: Sum16BitWords, bytes: &[u8]) -> u16 {
    begun.add_slice(bytes).ones_complement().to_be()
}

/// Takes out of TCP options what may name a host: all but those whose content is numbers of the connection.
fn options(mut rest: &mut [u8]) {
    const END: u8 = 0;
    // Segment size, window scale, SACK permitted, SACK, time stamps.
    const NUMBERS: [u8; 5] = [2, 3, 4, 5, 8];
    // TCP-MD5 (RFC 2385), TCP-AO (RFC 5925): that they are there decides whether a RST is sent.
    const SIGNATURES: [u8; 2] = [19, 29];
    while let Some(&kind) = rest.first() {
        let length = match kind {
            END => return rest.fill(0),
            NOP => 1,
            _ => match rest.get(1).map(|length| usize::from(*length)) {
                Some(length) if length >= 2 => length.min(rest.len()),
                _ => return rest.fill(0),
            },
        };
        let (option, behind) = rest.split_at_mut(length);
        match kind {
            NOP => {}
            kind if NUMBERS.contains(&kind) => {}
            kind if SIGNATURES.contains(&kind) => option[2..].fill(0),
            // Others may name addresses, as MPTCP's does (RFC 8684 §3.4.1), or a host, as a Fast Open cookie does (RFC 7413).
            _ => option.fill(NOP),
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use zerocopy::FromZeros;

    use tracer_common::wire::{HEADER_SIZE, Record, present};
    use tracer_model::headers::Headers;

    use super::super::key::Key;
    use super::{Addresses, Sum16BitWords, options, redact, sum, tcp_sum};

    /// A RST from 192.0.2.2:443 to 192.0.2.1:34567, without checksums.
    fn record(ipv6: bool) -> Record {
        let mut record = Record::new_zeroed();
        record.present = present::L3 | present::L4;
        if ipv6 {
            record.l3[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 20, 6, 64]);
            record.l3[8..10].copy_from_slice(&[0x20, 0x01]);
            record.l3[24..26].copy_from_slice(&[0xfd, 0x01]);
        } else {
            record.l3[..20].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1]);
        }
        record.l3_len = if ipv6 { 40 } else { 20 };
        record.l4[..4].copy_from_slice(&[1, 0xbb, 0x87, 7]);
        record.l4[12] = 5 << 4;
        record.l4[13] = 4;
        record.l4_len = 20;
        record
    }

    fn tcp_sum_of(record: &Record) -> Option<u16> {
        tcp_sum(&Headers::of(record)?)
    }

    fn redacted(from: &Record) -> Record {
        let mut to = Record { l3: [0; HEADER_SIZE], l4: [0; HEADER_SIZE], ..*from };
        redact(from, &mut to, &mut Addresses::new(&Key::new([1; 32])));
        to
    }

    #[rstest]
    #[case(false)]
    #[case(true)]
    fn right_checksums_stay_right(#[case] ipv6: bool) {
        let mut right = record(ipv6);
        let checksum = tcp_sum_of(&right).unwrap();
        right.l4[16..18].copy_from_slice(&checksum.to_be_bytes());
        if !ipv6 {
            let checksum = sum(Sum16BitWords::new(), &right.l3[..20]);
            right.l3[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        assert_eq!(tcp_sum_of(&right), Some(0));
        let after = redacted(&right);
        assert_ne!(after.l3, right.l3);
        assert_eq!(tcp_sum_of(&after), Some(0));
        if !ipv6 {
            assert_eq!(sum(Sum16BitWords::new(), &after.l3[..20]), 0);
        }
    }

    #[test]
    fn others_become_zero() {
        let mut wrong = record(false);
        wrong.l4[16..18].copy_from_slice(&[0x12, 0x34]);
        wrong.l3[10..12].copy_from_slice(&[0x12, 0x34]);
        let after = redacted(&wrong);
        assert_eq!((&after.l4[16..18], &after.l3[10..12]), (&[0, 0][..], &[0, 0][..]));
        let mut with_data = record(false);
        let checksum = tcp_sum_of(&with_data).unwrap();
        with_data.l4[16..18].copy_from_slice(&checksum.to_be_bytes());
        with_data.payload_len = 1;
        assert_eq!(redacted(&with_data).l4[16..18], [0, 0], "what it covers is not all there");
    }

    #[rstest]
    #[case::sack_and_padding(&[1, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8], &[1, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8])]
    #[case::mptcp_address(&[30, 8, 0x30, 1, 10, 0, 0, 2, 3, 3, 7], &[1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 7])]
    #[case::md5(&[19, 6, 1, 2, 3, 4, 1], &[19, 6, 0, 0, 0, 0, 1])]
    #[case::behind_the_end(&[0, 10, 0, 0, 2], &[0, 0, 0, 0, 0])]
    #[case::length_of_nothing(&[9, 0, 10, 0], &[0, 0, 0, 0])]
    #[case::cut(&[34, 20, 1, 2], &[1, 1, 1, 1])]
    fn what_is_left_of_options(#[case] before: &[u8], #[case] after: &[u8]) {
        let mut bytes = before.to_vec();
        options(&mut bytes);
        assert_eq!(bytes, after);
    }

    proptest! {
        /// Whatever was read, nothing is left behind the headers, and it does not panic.
        #[test]
        fn any_headers(l3: [u8; 32], l4: [u8; 32], l3_len in 0_u8..70, l4_len in 0_u8..70, payload_len in 0_u32..2) {
            let wide = |half: [u8; 32]| { let mut whole = [0xa5; HEADER_SIZE]; whole[..32].copy_from_slice(&half); whole };
            let mut from = Record { l3: wide(l3), l3_len, l4: wide(l4), l4_len, payload_len, ..Record::new_zeroed() };
            from.present = present::L3 | present::L4;
            let after = redacted(&from);
            prop_assert!(after.l3[usize::from(l3_len).min(HEADER_SIZE)..].iter().all(|byte| *byte == 0));
            prop_assert!(after.l4[usize::from(l4_len).clamp(18, HEADER_SIZE)..].iter().all(|byte| *byte == 0));
            let view = |record: &Record| Headers::of(record).map(|headers| {
                (headers.network().len(), headers.transport().len(), headers.is_whole())
            });
            prop_assert_eq!(view(&from), view(&after));
            if view(&from).is_none() {
                prop_assert_eq!((after.l3, after.l4), ([0; HEADER_SIZE], [0; HEADER_SIZE]));
            }
        }
    }
}
