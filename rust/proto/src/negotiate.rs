// SPDX-License-Identifier: GPL-2.0

//! Who answers what to whom: the first handshake as plain functions of state.
//!
//! ```text
//!            client                                   server
//!    syn()  ───────── MP_CAPABLE ──────────────────▶  answer()
//! outcome() ◀──────── MP_CAPABLE Tok_B Rnd_B ───────  syn_ack()
//!    ack()  ───────── MP_CAPABLE Tok_A .. Rnd_B ───▶  third_ack()
//! ```
//!
//! What the client makes of the answer to its low-overhead SYN:
//!
//! | answer | result |
//! |---|---|
//! | version 15, B as asked | low-overhead, or external-key |
//! | version 15, the client's own pair | none of ours: an echo of the SYN. Plain TCP |
//! | version 1 | standard MPTCP: the client takes a fresh standard key and token |
//! | no MP_CAPABLE | plain TCP |
//!
//! An application that asked for external keys, at either end, gets external-key mode or plain
//! TCP, never keys in clear. A server whose listener did not ask for external keys treats B as
//! RFC 8684 says: it ignores the option.
//!
//! The ends' pairs differ, or there is no connection of ours: with equal ones each end's HMACs would be
//! right as the other's.

use crate::key::KeyField;
use crate::option::mp_capable::{Body, Features, Mapping, MpCapableRepr, Received};

/// How a connection runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Without MPTCP.
    Tcp,
    /// MPTCP as in RFC 8684, by the stock code.
    Standard,
    /// Tokens from RC5, joins without HMAC.
    LowOverhead,
    /// As low-overhead, but joins carry an HMAC under the application's key.
    ExternalKey,
}

/// The form of a low-overhead SYN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynForm {
    /// 4 bytes. A stock server answers it with standard MPTCP.
    #[default]
    Compact,
    /// 12 bytes, with `Tok_A Rnd_A` as on the slide. A stock server answers it with plain TCP.
    Full,
}

/// What a client offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The SYN's form.
    pub form: SynForm,
    /// The SYN's flags; `external` if the application asked for external keys.
    pub features: Features,
    /// The client's own key field, to know an echo by. `None` knows none.
    pub own: Option<KeyField>,
}

impl Offer {
    /// Whether `peer` is the client's own key field.
    #[inline]
    const fn is_own(&self, peer: KeyField) -> bool {
        match self.own {
            Some(own) => own.raw() == peer.raw(),
            None => false,
        }
    }
}

/// What a listener takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// It accepts low-overhead connections.
    pub accept: bool,
    /// Its flags; `external` if the application asked for external keys.
    pub features: Features,
}

/// What both ends agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// External-key mode, else low-overhead.
    pub external: bool,
    /// DSS checksums, because either end requires them (RFC 8684, section 3.1).
    pub checksum: bool,
    /// The peer wants no joins to its initial address and port.
    pub peer_denies_join: bool,
}

impl Agreed {
    #[inline]
    const fn new(own: Features, peer: Features) -> Self {
        Self {
            external: peer.external,
            checksum: own.checksum || peer.checksum,
            peer_denies_join: peer.deny_join,
        }
    }

    /// The mode agreed on.
    #[inline]
    pub const fn mode(self) -> Mode {
        if self.external {
            Mode::ExternalKey
        } else {
            Mode::LowOverhead
        }
    }

    /// The flags of a segment that confirms this, from the end with `own` features.
    #[inline]
    const fn features(self, own: Features) -> Features {
        Features {
            checksum: self.checksum,
            external: self.external,
            deny_join: own.deny_join,
        }
    }
}

/// The client's SYN. `own` is its key field, of which a compact SYN says nothing yet.
#[inline]
pub const fn syn(offer: Offer, own: KeyField) -> MpCapableRepr {
    MpCapableRepr {
        features: offer.features,
        body: match offer.form {
            SynForm::Compact => Body::Compact,
            SynForm::Full => Body::Key { sender: own },
        },
    }
}

/// How the server answers a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Without MP_CAPABLE.
    Tcp,
    /// As the stock kernel does.
    Standard,
    /// With [`syn_ack`].
    Dc(Agreed),
}

/// The server's answer to a SYN that carries `received`.
#[inline]
pub const fn answer(listener: Listener, received: Option<Received>) -> Answer {
    match received {
        None => Answer::Tcp,
        Some(Received::Standard) if listener.features.external => Answer::Tcp,
        Some(Received::Standard) => Answer::Standard,
        Some(Received::Dc(MpCapableRepr { features, body })) => {
            if features.external != listener.features.external {
                Answer::Tcp
            } else if features.external || listener.accept {
                Answer::Dc(Agreed::new(listener.features, features))
            } else if matches!(body, Body::Compact) {
                // The stock kernel takes it for a future version and answers version 1.
                Answer::Standard
            } else {
                Answer::Tcp
            }
        }
    }
}

/// The server's SYN/ACK.
#[inline]
pub const fn syn_ack(listener: Listener, agreed: Agreed, own: KeyField) -> MpCapableRepr {
    MpCapableRepr {
        features: agreed.features(listener.features),
        body: Body::Key { sender: own },
    }
}

/// What the server's answer means to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Plain TCP.
    Tcp,
    /// Standard MPTCP, with a fresh key and token.
    Standard,
    /// Low-overhead or external-key mode.
    Dc {
        /// What was agreed.
        agreed: Agreed,
        /// The server's key field.
        peer: KeyField,
    },
}

impl Outcome {
    /// The connection's mode.
    #[inline]
    pub const fn mode(self) -> Mode {
        match self {
            Self::Tcp => Mode::Tcp,
            Self::Standard => Mode::Standard,
            Self::Dc { agreed, .. } => agreed.mode(),
        }
    }
}

/// What a SYN/ACK that carries `received` means to the client that sent `offer`.
#[inline]
pub const fn outcome(offer: Offer, received: Option<Received>) -> Outcome {
    match received {
        Some(Received::Dc(MpCapableRepr {
            features,
            body: Body::Key { sender },
        })) if features.external == offer.features.external && !offer.is_own(sender) => {
            Outcome::Dc {
                agreed: Agreed::new(offer.features, features),
                peer: sender,
            }
        }
        Some(Received::Standard) if !offer.features.external => Outcome::Standard,
        _ => Outcome::Tcp,
    }
}

/// The client's third ACK, with a mapping if data goes along.
#[inline]
pub const fn ack(
    offer: Offer,
    agreed: Agreed,
    own: KeyField,
    peer: KeyField,
    mapping: Option<Mapping>,
) -> MpCapableRepr {
    let (sender, receiver) = (own, peer);
    MpCapableRepr {
        features: agreed.features(offer.features),
        body: match mapping {
            None => Body::Keys { sender, receiver },
            Some(mapping) => Body::Data {
                sender,
                receiver,
                mapping,
            },
        },
    }
}

/// A connection as the server has it after the third ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    /// What was agreed.
    pub agreed: Agreed,
    /// The server's own key field.
    pub own: KeyField,
    /// The client's key field.
    pub peer: KeyField,
    /// The mapping of the data that came along.
    pub mapping: Option<Mapping>,
}

/// Why a third ACK opens no MPTCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not the form of a third ACK.
    Form,
    /// B other than the SYN/ACK had it, or, with SYN cookies, than the listener has it.
    Mode,
    /// Both its pairs are the same.
    SamePair,
    /// It echoes a pair that this host did not issue to this connection.
    NotOwn,
}

/// Judges the third ACK.
///
/// `kept` is what [`answer`] agreed on, or `None` with SYN cookies, where the server kept nothing.
/// `is_own` tells whether the echoed key field is the server's own: it compares with the one kept,
/// or verifies it with [`verify_own_pair`](crate::secret::verify_own_pair). It runs only for an
/// ACK that is right otherwise.
///
/// # Errors
///
/// The [`Refusal`].
#[inline]
pub fn third_ack(
    listener: Listener,
    kept: Option<Agreed>,
    ack: &MpCapableRepr,
    is_own: impl FnOnce(KeyField) -> bool,
) -> Result<Established, Refusal> {
    let (sender, receiver, mapping) = match ack.body {
        Body::Keys { sender, receiver } => (sender, receiver, None),
        Body::Data {
            sender,
            receiver,
            mapping,
        } => (sender, receiver, Some(mapping)),
        Body::Compact | Body::Key { .. } => return Err(Refusal::Form),
    };
    let allowed = match kept {
        Some(agreed) => ack.features.external == agreed.external,
        None if ack.features.external => listener.features.external,
        None => listener.accept && !listener.features.external,
    };
    if !allowed {
        return Err(Refusal::Mode);
    }
    if sender == receiver {
        return Err(Refusal::SamePair);
    }
    if !is_own(receiver) {
        return Err(Refusal::NotOwn);
    }
    let mut agreed = Agreed::new(listener.features, ack.features);
    agreed.checksum |= kept.is_some_and(|kept| kept.checksum);
    Ok(Established {
        agreed,
        own: receiver,
        peer: sender,
        mapping,
    })
}
