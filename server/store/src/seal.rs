//! Sealing of single values: XChaCha20-Poly1305 with a random nonce, bound to the place where the value is
//! stored, so that a sealed value that is copied to another row does not open there.

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD as BASE64};
use chacha20poly1305::{
    Key, KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use zeroize::Zeroizing;

use crate::{
    error::{Result, StoreError},
    key::{KeyError, MasterKey},
};

/// Marks the format, so that another can follow it.
const PREFIX: &str = "x1.";
const NONCE_BYTES: usize = 24;

/// Seals and opens values with the master key.
pub(crate) struct Sealer(XChaCha20Poly1305);

/// Where a sealed value is stored.
pub(crate) struct Place<'a> {
    /// Table and column, such as "variables/value".
    pub(crate) column: &'static str,
    /// What identifies the row.
    pub(crate) row: &'a str,
}

impl Place<'_> {
    fn aad(&self) -> String {
        format!("{}/{}", self.column, self.row)
    }
}

impl Sealer {
    pub(crate) fn new(key: &MasterKey) -> Self {
        Self(XChaCha20Poly1305::new(Key::from_slice(key.bytes())))
    }

    /// Seals `clear` for `place`.
    pub(crate) fn seal(&self, place: &Place<'_>, clear: &[u8]) -> Result<String> {
        let mut sealed = vec![0u8; NONCE_BYTES];
        getrandom::fill(&mut sealed).map_err(|e| KeyError::NoEntropy(e.to_string()))?;
        let aad = place.aad();
        let payload = Payload { msg: clear, aad: aad.as_bytes() };
        let boxed = self
            .0
            .encrypt(XNonce::from_slice(&sealed), payload)
            .map_err(|_| StoreError::Unsealable(place.column))?;
        sealed.extend_from_slice(&boxed);
        Ok(format!("{PREFIX}{}", BASE64.encode(sealed)))
    }

    /// Opens what was sealed for `place`; anything else is refused.
    pub(crate) fn open(&self, place: &Place<'_>, sealed: &str) -> Result<Zeroizing<Vec<u8>>> {
        let refused = || StoreError::Unsealable(place.column);
        let bytes = sealed
            .strip_prefix(PREFIX)
            .and_then(|t| BASE64.decode(t).ok())
            .filter(|b| b.len() > NONCE_BYTES)
            .ok_or_else(refused)?;
        let (nonce, boxed) = bytes.split_at(NONCE_BYTES);
        let aad = place.aad();
        let payload = Payload { msg: boxed, aad: aad.as_bytes() };
        self.0.decrypt(XNonce::from_slice(nonce), payload).map(Zeroizing::new).map_err(|_| refused())
    }

    /// Opens a text.
    pub(crate) fn open_text(&self, place: &Place<'_>, sealed: &str) -> Result<String> {
        let clear = self.open(place, sealed)?;
        String::from_utf8(clear.to_vec()).map_err(|_| StoreError::Unsealable(place.column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'static> = Place { column: "variables/value", row: "1/DATABASE_URL" };

    #[test]
    fn what_was_sealed_opens_at_its_place_only() {
        let sealer = Sealer::new(&MasterKey::generate().unwrap());
        let sealed = sealer.seal(&HERE, b"postgres://u:p@h/db").unwrap();
        assert_eq!(sealer.open_text(&HERE, &sealed).unwrap(), "postgres://u:p@h/db");
        let elsewhere = Place { column: "variables/value", row: "2/DATABASE_URL" };
        assert!(matches!(sealer.open(&elsewhere, &sealed), Err(StoreError::Unsealable(_))));
        let other = Sealer::new(&MasterKey::generate().unwrap());
        assert!(matches!(other.open(&HERE, &sealed), Err(StoreError::Unsealable(_))));
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let sealer = Sealer::new(&MasterKey::generate().unwrap());
        let sealed = sealer.seal(&HERE, b"value").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(sealer.open(&HERE, &changed).is_err(), "position {at}");
        }
    }

    #[test]
    fn equal_values_do_not_look_equal() {
        let sealer = Sealer::new(&MasterKey::generate().unwrap());
        assert_ne!(sealer.seal(&HERE, b"x").unwrap(), sealer.seal(&HERE, b"x").unwrap());
    }
}
