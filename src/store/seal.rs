//! Encryption at rest: XChaCha20-Poly1305, a random nonce before each text, bound to what it belongs to.

use std::fmt;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

use crate::config::EncryptionKey;

const NONCE: usize = 24;

/// Seals and opens with one key. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Seal(XChaCha20Poly1305);

impl Seal {
    /// What the check value says, and what it belongs to; no response id looks like it.
    pub(super) const CHECK: &[u8] = b"codex-bridge store check";

    /// With `key`.
    pub fn new(key: &EncryptionKey) -> Self {
        Self(XChaCha20Poly1305::new(key.bytes().into()))
    }

    /// `None` only for texts beyond the cipher's own limit of 256 GB.
    pub(crate) fn seal(&self, belongs_to: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        // 24 random bytes never repeat.
        let nonce: [u8; NONCE] = rand::random();
        let sealed =
            self.0.encrypt(XNonce::from_slice(&nonce), Payload { msg: plain, aad: belongs_to }).ok()?;
        Some([nonce.as_slice(), &sealed].concat())
    }

    /// `None` where another key sealed it, where it belongs to something else, or where it is damaged.
    pub(crate) fn open(&self, belongs_to: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        self.0.decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: belongs_to }).ok()
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(byte: u8) -> Seal {
        Seal::new(&EncryptionKey::new([byte; 32]))
    }

    #[test]
    fn only_the_same_key_and_owner_open_what_was_sealed() {
        let sealed = seal(1).seal(b"resp_1", b"the words").unwrap();
        assert_eq!(seal(1).open(b"resp_1", &sealed).as_deref(), Some(&b"the words"[..]));
        assert_eq!(seal(2).open(b"resp_1", &sealed), None);
        assert_eq!(seal(1).open(b"resp_2", &sealed), None);
        assert!(!sealed.windows(5).any(|part| part == b"words"));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(seal(1).open(b"resp_1", &damaged), None, "byte {at}");
            assert_eq!(seal(1).open(b"resp_1", &sealed[..at]), None, "cut at {at}");
        }
    }
}
