//! The headers of a packet under other addresses.
//!
//! A checksum is computed again where everything that it covers is at hand and it was right before; otherwise it becomes
//! zero. It is never carried over: where it was not yet finished, as between two ends on one host, it gives away half of what
//! the addresses are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::checksum::Sum16BitWords;

use tracer_common::wire::HEADER_SIZE;

use super::address::Addresses;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const TCP: u8 = 6;
/// The option that does nothing, of IPv4 and of TCP alike.
const NOP: u8 = 1;

/// An IP header and a TCP header, as far as they were captured.
pub(super) struct Headers {
    pub(super) l3: [u8; HEADER_SIZE],
    pub(super) l3_len: usize,
    pub(super) l4: [u8; HEADER_SIZE],
    pub(super) l4_len: usize,
    pub(super) payload_len: u32,
}

impl Headers {
    /// The same headers of other hosts.
    pub(super) fn redact(&mut self, addresses: &mut Addresses) {
        let (l3_len, l4_len) = (self.l3_len.min(HEADER_SIZE), self.l4_len.min(HEADER_SIZE));
        self.l3[l3_len..].fill(0);
        self.l4[l4_len..].fill(0);
        let right = self.has_right_tcp_checksum();
        match self.l3[0] >> 4 {
            4 if l3_len >= IPV4_HEADER => self.ipv4(l3_len, addresses),
            6 if l3_len >= IPV6_HEADER => {
                for at in [8, 24] {
                    if let Some(field) = self.l3[at..].first_chunk_mut::<16>()
                        && let IpAddr::V6(pseudonym) = addresses.pseudonym(Ipv6Addr::from(*field).into())
                    {
                        *field = pseudonym.octets();
                    }
                }
            }
            // Nobody knows where addresses are in there.
            _ => self.l3[1..].fill(0),
        }
        if l4_len > TCP_HEADER {
            options(&mut self.l4[TCP_HEADER..l4_len]);
        }
        self.l4[16..18].fill(0);
        if right && let Some(sum) = self.tcp_sum() {
            self.l4[16..18].copy_from_slice(&sum.to_be_bytes());
        }
    }

    fn ipv4(&mut self, l3_len: usize, addresses: &mut Addresses) {
        let length = usize::from(self.l3[0] & 0xf) * 4;
        let whole = (IPV4_HEADER..=l3_len).contains(&length);
        let right = whole && sum(Sum16BitWords::new(), &self.l3[..length]) == 0;
        for at in [12, 16] {
            if let Some(field) = self.l3[at..].first_chunk_mut::<4>()
                && let IpAddr::V4(pseudonym) = addresses.pseudonym(Ipv4Addr::from(*field).into())
            {
                *field = pseudonym.octets();
            }
        }
        // Routes and time stamps hold addresses (RFC 791 §3.1).
        self.l3[IPV4_HEADER..l3_len].fill(NOP);
        self.l3[10..12].fill(0);
        if right {
            let checksum = sum(Sum16BitWords::new(), &self.l3[..length]);
            self.l3[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    }

    /// Whether the TCP checksum can be checked, and is right.
    fn has_right_tcp_checksum(&self) -> bool {
        self.tcp_sum() == Some(0)
    }

    /// The checksum over all of a segment without data; none where there is more than the record has.
    fn tcp_sum(&self) -> Option<u16> {
        let header = usize::from(self.l4[12] >> 4) * 4;
        if self.payload_len != 0 || header < TCP_HEADER || header != self.l4_len {
            return None;
        }
        let pseudo = match self.l3[0] >> 4 {
            4 if self.l3_len >= IPV4_HEADER => Sum16BitWords::new().add_slice(&self.l3[12..20]),
            6 if self.l3_len >= IPV6_HEADER => Sum16BitWords::new().add_slice(&self.l3[8..40]),
            _ => return None,
        };
        let length = (header as u16).to_be_bytes();
        Some(sum(pseudo.add_2bytes([0, TCP]).add_2bytes(length), &self.l4[..header]))
    }
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

    use super::super::key::Key;
    use super::{Addresses, HEADER_SIZE, Headers, options};

    /// A RST from 192.0.2.2:443 to 192.0.2.1:34567, without checksums.
    fn headers(ipv6: bool) -> Headers {
        let (mut l3, mut l4) = ([0; HEADER_SIZE], [0; HEADER_SIZE]);
        if ipv6 {
            l3[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 20, 6, 64]);
            l3[8..10].copy_from_slice(&[0x20, 0x01]);
            l3[24..26].copy_from_slice(&[0xfd, 0x01]);
        } else {
            l3[..20].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1]);
        }
        l4[..4].copy_from_slice(&[1, 0xbb, 0x87, 7]);
        l4[12] = 5 << 4;
        l4[13] = 4;
        Headers { l3, l3_len: if ipv6 { 40 } else { 20 }, l4, l4_len: 20, payload_len: 0 }
    }

    fn redacted(mut headers: Headers) -> Headers {
        headers.redact(&mut Addresses::new(&Key::new([1; 32])));
        headers
    }

    #[rstest]
    #[case(false)]
    #[case(true)]
    fn right_checksums_stay_right(#[case] ipv6: bool) {
        let mut right = headers(ipv6);
        let sum = right.tcp_sum().unwrap();
        right.l4[16..18].copy_from_slice(&sum.to_be_bytes());
        if !ipv6 {
            let sum = super::sum(super::Sum16BitWords::new(), &right.l3[..20]);
            right.l3[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        assert!(right.has_right_tcp_checksum());
        let before = right.l3;
        let after = redacted(right);
        assert_ne!(after.l3, before);
        assert!(after.has_right_tcp_checksum());
        if !ipv6 {
            assert_eq!(super::sum(super::Sum16BitWords::new(), &after.l3[..20]), 0);
        }
    }

    #[test]
    fn others_become_zero() {
        let mut wrong = headers(false);
        wrong.l4[16..18].copy_from_slice(&[0x12, 0x34]);
        wrong.l3[10..12].copy_from_slice(&[0x12, 0x34]);
        let after = redacted(wrong);
        assert_eq!((&after.l4[16..18], &after.l3[10..12]), (&[0, 0][..], &[0, 0][..]));
        let mut with_data = headers(false);
        let sum = with_data.tcp_sum().unwrap();
        with_data.l4[16..18].copy_from_slice(&sum.to_be_bytes());
        with_data.payload_len = 1;
        assert_eq!(redacted(with_data).l4[16..18], [0, 0], "what it covers is not all there");
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
        /// Whatever was captured, nothing is left behind the headers' lengths, and it does not panic.
        #[test]
        fn any_headers(l3: [u8; 32], l4: [u8; 32], l3_len in 0_usize..70, l4_len in 0_usize..70, payload_len in 0_u32..2) {
            let wide = |half: [u8; 32]| { let mut whole = [0xa5; HEADER_SIZE]; whole[..32].copy_from_slice(&half); whole };
            let after = redacted(Headers { l3: wide(l3), l3_len, l4: wide(l4), l4_len, payload_len });
            prop_assert!(after.l3[l3_len.min(64)..].iter().all(|byte| *byte == 0));
            prop_assert!(after.l4[l4_len.clamp(18, 64)..].iter().all(|byte| *byte == 0));
        }
    }
}
