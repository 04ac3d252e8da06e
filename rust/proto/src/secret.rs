// SPDX-License-Identifier: GPL-2.0

//! A host's secret, and the pairs (token, random part) that it makes.
//!
//! A server that answers with SYN cookies keeps nothing of a SYN. The third ACK echoes
//! `Tok_B ‖ Rnd_B`: the server decrypts `Tok_B` to the counter, makes `Rnd_B` again from the
//! connection and the counter, and accepts only its own pair. So no ACK can plant a token that
//! this host never issued, nor one that it issued to another connection.

use crate::key::KeyField;
use crate::nonce::Flow;
use crate::siphash::HashKey;
use crate::token::{Counter, TokenCipher};

/// The secret of one epoch: the token cipher's key and the hash's key.
///
/// It is replaced when a slice of counters nears its end ([`Take::rekey_due`]). The secret before
/// it stays valid for pairs still on their way.
///
/// [`Take::rekey_due`]: crate::token::Take::rekey_due
pub struct Secret {
    cipher: TokenCipher,
    hash: HashKey,
}

impl Secret {
    /// Makes a secret of two keys, each uniformly random.
    pub fn new(cipher: &[u8; 16], hash: &[u8; 16]) -> Self {
        Self {
            cipher: TokenCipher::new(cipher),
            hash: HashKey::new(hash),
        }
    }

    /// Replaces both keys in place.
    pub fn set_keys(&mut self, cipher: &[u8; 16], hash: &[u8; 16]) {
        self.cipher.set_key(cipher);
        self.hash.set_key(hash);
    }

    /// The token cipher.
    #[inline]
    pub fn cipher(&self) -> &TokenCipher {
        &self.cipher
    }

    /// The hash key.
    #[inline]
    pub fn hash_key(&self) -> &HashKey {
        &self.hash
    }

    /// The key field of `flow` made from `counter`, for a connection of either mode; `None` for the one
    /// counter that is skipped.
    #[inline(always)]
    pub fn issue(&self, flow: &Flow, counter: Counter, external: bool) -> Option<KeyField> {
        let token = self.cipher.seal(counter)?;
        let key = KeyField::new(token, flow.random_part(&self.hash, counter));
        Some(key.with_external(external))
    }

    /// The counter that `key` was made from, if this secret made it for `flow`.
    ///
    /// A stranger's pair passes by chance once in 2^31. Callers narrow that down further with
    /// [`Slices::issued`](crate::token::Slices::issued).
    #[inline]
    pub fn verify(&self, flow: &Flow, key: KeyField) -> Option<Counter> {
        let counter = self.cipher.open(key.token());
        let own = KeyField::new(key.token(), flow.random_part(&self.hash, counter));
        // One comparison of two machine words: the time it takes says nothing about the bits.
        (own.with_external(key.is_external()).raw() == key.raw()).then_some(counter)
    }
}

/// Verifies `key` against the secrets in force, the current one first, and returns which of them
/// made it, counted from 0, and from what counter.
#[inline]
pub fn verify_own_pair<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    flow: &Flow,
    key: KeyField,
) -> Option<(usize, Counter)> {
    let mut secrets = secrets.into_iter().enumerate();
    secrets.find_map(|(epoch, secret)| Some((epoch, secret.verify(flow, key)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nonce::End;
    use proptest::prelude::*;

    fn secret(byte: u8) -> Secret {
        Secret::new(&[byte; 16], &[byte ^ 0xff; 16])
    }

    fn flow(netns: u64, port: u16) -> Flow {
        let local = End {
            addr: [192, 0, 2, 1],
            port: 80_u16.to_be_bytes(),
        };
        let remote = End {
            addr: [192, 0, 2, 2],
            port: port.to_be_bytes(),
        };
        Flow::v4(netns, local, remote)
    }

    proptest! {
        #[test]
        fn a_host_knows_its_own_pair(counter: u32, port: u16) {
            let (secret, flow) = (secret(1), flow(1, port));
            if let Some(key) = secret.issue(&flow, Counter(counter), false) {
                prop_assert_eq!(secret.verify(&flow, key), Some(Counter(counter)));
            }
        }

        #[test]
        fn keys_replaced_in_place_are_as_good_as_new(counter: u32, port: u16) {
            let (mut replaced, flow) = (secret(1), flow(1, port));
            replaced.set_keys(&[2; 16], &[2 ^ 0xff; 16]);
            let counter = Counter(counter);
            prop_assert_eq!(replaced.issue(&flow, counter, true), secret(2).issue(&flow, counter, true));
        }

        #[test]
        fn the_secret_before_is_still_known(counter: u32, port: u16) {
            let (current, previous, flow) = (secret(2), secret(1), flow(1, port));
            if let Some(key) = previous.issue(&flow, Counter(counter), false) {
                let known = verify_own_pair([&current, &previous], &flow, key);
                prop_assert_eq!(known, Some((1, Counter(counter))));
            }
        }

        /// Each of these passes by chance once in 2^32.
        #[test]
        fn a_host_knows_no_other_pair(counter: u32, port: u16, flip in 1_u32..64) {
            let (secret, flow_) = (secret(1), flow(1, port));
            if let Some(key) = secret.issue(&flow_, Counter(counter), false) {
                prop_assert_eq!(secret.verify(&flow(1, port ^ 1), key), None);
                prop_assert_eq!(secret.verify(&flow(2, port), key), None);
                prop_assert_eq!(super::tests::secret(2).verify(&flow_, key), None);
                if let Some(forged) = KeyField::from_raw(key.raw() ^ (1 << flip)) {
                    prop_assert_eq!(secret.verify(&flow_, forged), None);
                }
            }
        }
    }
}
