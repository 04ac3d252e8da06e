// SPDX-License-Identifier: GPL-2.0

//! The first handshake end to end, over bytes, for every pair of client and server.

use proptest::prelude::*;
use proto::key::KeyField;
use proto::negotiate::*;
use proto::option::mp_capable::{find, Body, Features, Mapping, MpCapableRepr, Received};
use proto::option::{Segment, MAX_LEN};

const FLAGS: [bool; 2] = [false, true];

fn key(raw: u64) -> KeyField {
    KeyField::from_raw(raw).unwrap()
}

fn own_a() -> KeyField {
    key(0xaaaa_aaaa_0000_0001)
}

fn own_b() -> KeyField {
    key(0xbbbb_bbbb_0000_0002)
}

/// Carries an option across the wire.
fn wire(segment: Segment, repr: &MpCapableRepr) -> Vec<u8> {
    let mut buffer = [0xa5; MAX_LEN];
    let length = repr.emit(segment, &mut buffer).unwrap();
    buffer[..length].to_vec()
}

/// A host at either end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Host {
    /// A stock kernel with MPTCP.
    Stock,
    /// A kernel without.
    Plain,
    /// The module, `lowoverhead=1`: as client it sends stock SYNs.
    Accept,
    /// The module, `lowoverhead=2`.
    Offer(SynForm),
    /// An application with external keys.
    External(SynForm),
}

const HOSTS: [Host; 7] = [
    Host::Stock,
    Host::Plain,
    Host::Accept,
    Host::Offer(SynForm::Compact),
    Host::Offer(SynForm::Full),
    Host::External(SynForm::Compact),
    Host::External(SynForm::Full),
];

const STOCK_SYN: [u8; 4] = [30, 4, 0x01, 0x01];
const STOCK_SYN_ACK: [u8; 12] = [30, 12, 0x01, 0x01, 1, 2, 3, 4, 5, 6, 7, 8];

/// A stock kernel heeds a SYN of length 4, any version from 1 on, with H and without B.
fn stock_server(syn: &[u8]) -> Vec<u8> {
    let heeds = matches!(*syn, [30, 4, version, flags] if version >= 1 && flags & 0x5f == 1);
    if heeds {
        STOCK_SYN_ACK.to_vec()
    } else {
        Vec::new()
    }
}

/// Runs a handshake; both ends must come to one mode.
fn handshake(client: Host, server: Host, checksum: bool) -> Mode {
    let offer = match client {
        Host::Offer(form) => Some((form, false)),
        Host::External(form) => Some((form, true)),
        _ => None,
    };
    let offer = offer.map(|(form, external)| Offer {
        form,
        features: Features {
            checksum,
            external,
            deny_join: true,
        },
        own: Some(own_a()),
    });
    let syn_bytes = match (client, offer) {
        (_, Some(offer)) => wire(Segment::Syn, &syn(offer, own_a())),
        (Host::Plain, _) => Vec::new(),
        _ => STOCK_SYN.to_vec(),
    };

    let listener = Listener {
        accept: matches!(server, Host::Accept | Host::Offer(_)),
        features: Features {
            external: matches!(server, Host::External(_)),
            ..Features::default()
        },
    };
    let mut answered = None;
    let syn_ack_bytes = match server {
        Host::Plain => Vec::new(),
        Host::Stock => stock_server(&syn_bytes),
        _ => match answer(listener, find(&syn_bytes, Segment::Syn)) {
            Answer::Tcp => Vec::new(),
            Answer::Standard => stock_server(&syn_bytes),
            Answer::Dc(agreed) => {
                answered = Some(agreed);
                wire(Segment::SynAck, &syn_ack(listener, agreed, own_b()))
            }
        },
    };

    let received = find(&syn_ack_bytes, Segment::SynAck);
    let Some(offer) = offer else {
        assert_eq!(answered, None, "an answer to what nobody asked");
        return match received {
            Some(Received::Standard) => Mode::Standard,
            _ => Mode::Tcp,
        };
    };
    let result = outcome(offer, received);
    if let Outcome::Dc { agreed, peer } = result {
        assert_eq!(peer, own_b());
        assert_eq!(agreed.checksum, checksum);
        let mapping = Mapping {
            len: 100,
            checksum: checksum.then_some([1, 2]),
        };
        for (segment, mapping) in [(Segment::Ack, None), (Segment::Data, Some(mapping))] {
            let bytes = wire(segment, &ack(offer, agreed, own_a(), peer, mapping));
            let Some(Received::Dc(ack)) = find(&bytes, segment) else {
                panic!("the ACK was not understood");
            };
            for kept in [answered, None] {
                let established = third_ack(listener, kept, &ack, |own| own == own_b()).unwrap();
                assert_eq!(established.own, own_b());
                assert_eq!(established.peer, own_a());
                assert_eq!(established.mapping, mapping);
                assert_eq!(established.agreed.mode(), result.mode());
                assert_eq!(established.agreed.checksum, checksum);
                assert!(established.agreed.peer_denies_join);
            }
            let foreign = third_ack(listener, None, &ack, |_| false);
            assert_eq!(foreign, Err(Refusal::NotOwn));
        }
    }
    assert_eq!(
        answered.is_some(),
        matches!(result, Outcome::Dc { .. }),
        "the ends disagree"
    );
    result.mode()
}

/// The table of the protocol, said once more in other words.
fn expected(client: Host, server: Host) -> Mode {
    use Host::*;
    match (client, server) {
        (Plain, _) | (_, Plain) => Mode::Tcp,
        (External(_), External(_)) => Mode::ExternalKey,
        (External(_), _) | (_, External(_)) => Mode::Tcp,
        (Stock | Accept, _) => Mode::Standard,
        (Offer(_), Accept | Offer(_)) => Mode::LowOverhead,
        (Offer(SynForm::Compact), Stock) => Mode::Standard,
        (Offer(SynForm::Full), Stock) => Mode::Tcp,
    }
}

#[test]
fn every_pair_of_hosts_comes_to_the_mode_of_the_table() {
    for client in HOSTS {
        for server in HOSTS {
            for checksum in FLAGS {
                let mode = handshake(client, server, checksum);
                assert_eq!(mode, expected(client, server), "{client:?} to {server:?}");
            }
        }
    }
}

#[test]
fn a_server_that_accepts_nothing_leaves_compact_to_the_stock_code_and_full_to_tcp() {
    let off = Listener::default();
    let offer = |form| Offer {
        form,
        ..Offer::default()
    };
    let dc = |form| Some(Received::Dc(syn(offer(form), own_a())));
    assert_eq!(answer(off, dc(SynForm::Compact)), Answer::Standard);
    assert_eq!(answer(off, dc(SynForm::Full)), Answer::Tcp);
    assert_eq!(answer(off, Some(Received::Standard)), Answer::Standard);
    assert_eq!(answer(off, None), Answer::Tcp);
}

#[test]
fn checksums_run_if_either_end_requires_them() {
    for ours in FLAGS {
        for theirs in FLAGS {
            let features = |checksum| Features {
                checksum,
                ..Features::default()
            };
            let offer = Offer {
                form: SynForm::Compact,
                features: features(theirs),
                own: Some(own_a()),
            };
            let listener = Listener {
                accept: true,
                features: features(ours),
            };
            let syn = Received::Dc(syn(offer, own_a()));
            let Answer::Dc(agreed) = answer(listener, Some(syn)) else {
                panic!("not accepted");
            };
            assert_eq!(agreed.checksum, ours || theirs);
            let reply = syn_ack(listener, agreed, own_b());
            assert_eq!(reply.features.checksum, ours || theirs);
            let Outcome::Dc { agreed, .. } = outcome(offer, Some(Received::Dc(reply))) else {
                panic!("not concluded");
            };
            assert_eq!(agreed.checksum, ours || theirs);
        }
    }
}

#[test]
fn an_answer_with_b_other_than_asked_is_plain_tcp() {
    for asked in FLAGS {
        for answered in FLAGS {
            let features = |external| Features {
                external,
                ..Features::default()
            };
            let offer = Offer {
                form: SynForm::Compact,
                features: features(asked),
                own: None,
            };
            let reply = MpCapableRepr {
                features: features(answered),
                body: Body::Key { sender: own_b() },
            };
            let mode = outcome(offer, Some(Received::Dc(reply))).mode();
            let expected = match (asked, answered) {
                (false, false) => Mode::LowOverhead,
                (true, true) => Mode::ExternalKey,
                _ => Mode::Tcp,
            };
            assert_eq!(mode, expected);
        }
    }
}

#[test]
fn a_version_1_answer_is_standard_unless_external_keys_were_asked_for() {
    let mut offer = Offer::default();
    assert_eq!(outcome(offer, Some(Received::Standard)), Outcome::Standard);
    offer.features.external = true;
    assert_eq!(outcome(offer, Some(Received::Standard)), Outcome::Tcp);
}

#[test]
fn checksums_agreed_on_stay_even_if_the_third_ack_forgets_them() {
    let listener = Listener {
        accept: true,
        ..Listener::default()
    };
    let kept = Agreed {
        external: false,
        checksum: true,
        peer_denies_join: false,
    };
    let ack = MpCapableRepr {
        features: Features::default(),
        body: Body::Keys {
            sender: own_a(),
            receiver: own_b(),
        },
    };
    let established = third_ack(listener, Some(kept), &ack, |_| true).unwrap();
    assert!(established.agreed.checksum);
}

#[test]
fn a_third_ack_may_not_change_the_mode() {
    for kept_external in FLAGS {
        for ack_external in FLAGS {
            let features = |external| Features {
                external,
                ..Features::default()
            };
            let listener = Listener {
                accept: true,
                features: features(kept_external),
            };
            let kept = Agreed {
                external: kept_external,
                checksum: false,
                peer_denies_join: false,
            };
            let ack = MpCapableRepr {
                features: features(ack_external),
                body: Body::Keys {
                    sender: own_a(),
                    receiver: own_b(),
                },
            };
            for kept in [Some(kept), None] {
                let result = third_ack(listener, kept, &ack, |_| true);
                if kept_external == ack_external {
                    assert!(result.is_ok());
                } else {
                    assert_eq!(result, Err(Refusal::Mode));
                }
            }
        }
    }
}

#[test]
fn a_cookie_ack_to_a_listener_that_accepts_nothing_is_refused_before_any_key_is_tried() {
    let ack = MpCapableRepr {
        features: Features::default(),
        body: Body::Keys {
            sender: own_a(),
            receiver: own_b(),
        },
    };
    let result = third_ack(Listener::default(), None, &ack, |_| {
        panic!("a key was tried")
    });
    assert_eq!(result, Err(Refusal::Mode));
    let syn = MpCapableRepr {
        body: Body::Compact,
        ..ack
    };
    let result = third_ack(Listener::default(), None, &syn, |_| {
        panic!("a key was tried")
    });
    assert_eq!(result, Err(Refusal::Form));
}

fn pair() -> impl Strategy<Value = KeyField> {
    (1_u64 << 32..).prop_map(key)
}

fn flags() -> impl Strategy<Value = Features> {
    any::<[bool; 3]>().prop_map(|[checksum, external, deny_join]| Features {
        checksum,
        external,
        deny_join,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_echo_of_the_clients_own_syn_is_no_answer_of_ours(
        own in pair(), features in flags(), full: bool,
    ) {
        let form = if full { SynForm::Full } else { SynForm::Compact };
        let offer = Offer { form, features, own: Some(own) };
        let echo = wire(Segment::Syn, &syn(offer, own));
        prop_assert_eq!(outcome(offer, find(&echo, Segment::SynAck)), Outcome::Tcp);
    }

    #[test]
    fn an_answer_is_taken_exactly_if_its_pair_is_not_the_clients(
        own in pair(), other in pair(), same: bool, features in flags(), answered in flags(),
    ) {
        let sender = if same { own } else { other };
        let reply = MpCapableRepr {
            features: Features { external: features.external, ..answered },
            body: Body::Key { sender },
        };
        let offer = Offer { features, own: Some(own), ..Offer::default() };
        let outcome = outcome(offer, find(&wire(Segment::SynAck, &reply), Segment::SynAck));
        if sender == own {
            prop_assert_eq!(outcome, Outcome::Tcp);
        } else {
            let taken = matches!(outcome, Outcome::Dc { peer, .. } if peer == sender);
            prop_assert!(taken);
        }
    }

    #[test]
    fn a_third_ack_with_two_equal_pairs_is_refused_before_any_key_is_tried(
        own in pair(), external: bool, data: bool, cookie: bool,
    ) {
        let features = Features { external, ..Features::default() };
        let listener = Listener { accept: true, features };
        let offer = Offer { features, ..Offer::default() };
        let kept = Agreed { external, checksum: false, peer_denies_join: false };
        let mapping = data.then_some(Mapping { len: 1, checksum: None });
        let ack = |own, peer| ack(offer, kept, own, peer, mapping);
        let kept = (!cookie).then_some(kept);
        let refused = third_ack(listener, kept, &ack(own, own), |_| panic!("a key was tried"));
        prop_assert_eq!(refused, Err(Refusal::SamePair));
        let other = key(own.raw() ^ 1);
        let taken = third_ack(listener, kept, &ack(other, own), |key| key == own);
        prop_assert!(taken.is_ok());
    }
}
