//! The key that pseudonyms follow from.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a key.
const LENGTH: usize = 32;

/// A key. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; LENGTH]);

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hexadecimal digits")]
pub struct KeyError;

impl Key {
    /// The key with these bytes, which nobody must be able to guess.
    pub const fn new(bytes: [u8; LENGTH]) -> Self {
        Self(bytes)
    }

    /// As it is kept in a file.
    pub fn to_hexadecimal(&self) -> String {
        hexadecimal(&self.0)
    }

    /// 32 bytes that follow from the key and from what they are for: HMAC-SHA-256 (RFC 2104).
    pub(super) fn derive(&self, purpose: &str, of: &[u8]) -> [u8; 32] {
        // The lengths keep apart what would be the same bytes.
        let mut mac = mac(&self.0);
        mac.update(&(purpose.len() as u64).to_le_bytes());
        mac.update(purpose.as_bytes());
        mac.update(of);
        mac.finalize().into_bytes().into()
    }
}

/// Two digits a byte.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let halves = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    halves.filter_map(|half| char::from_digit(half.into(), 16)).collect()
}

fn mac(key: &[u8; LENGTH]) -> Hmac<Sha256> {
    // A key that is shorter than a block of the hash is followed by zeros (RFC 2104 §2).
    let mut block = [0; 64];
    block[..LENGTH].copy_from_slice(key);
    Hmac::new(&block.into())
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let digits = text.trim().as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut bytes = [0; LENGTH];
        if digits.len() != 2 * LENGTH {
            return Err(KeyError);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (digit(pair[0]).ok_or(KeyError)?, digit(pair[1]).ok_or(KeyError)?);
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, KeyError};

    /// Test case 2 of RFC 4231, whose key is shorter than ours and ends like it: in zeros.
    #[test]
    fn the_hash_is_as_published() {
        use hmac::Mac;
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(b"Jefe");
        let mut mac = super::mac(&bytes);
        mac.update(b"what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(Key::new(mac.finalize().into_bytes().into()).to_hexadecimal(), expected);
    }

    #[test]
    fn keys_are_64_digits() {
        let key = Key::new([0x5a; 32]);
        assert_eq!(key.to_hexadecimal().parse(), Ok(key.clone()));
        assert_eq!(format!("{}\n", key.to_hexadecimal()).parse(), Ok(key.clone()));
        assert_eq!(format!("{key:?}"), "Key", "it is not printed");
        for text in ["", "5a", &"5".repeat(63), &"5".repeat(65), &"g".repeat(64), &"+".repeat(64), &"é".repeat(32)] {
            assert_eq!(text.parse::<Key>(), Err(KeyError), "{text}");
        }
    }
}
