//! What is left of items, and that it still means the same.

use bytes::Bytes;

use tracer_common::Hook;
use tracer_model::capture::{Host, Item};
use tracer_model::decode::decode;
use tracer_model::filter::Filter;
use tracer_testing::{Build, REPLY};

use super::{Key, Redactor};

fn redactor() -> Redactor {
    Redactor::new(&Key::new([42; 32]))
}

/// The packet, the entry and the kernel's words agree with each other as before.
#[test]
fn a_record_stays_coherent() {
    let raw = Build::from_server(Hook::CtInvalid, 0xffff_8881_0000_1000, 2, 3, 4).entry(REPLY, 5, 6).bytes();
    let before = decode(&raw).unwrap();
    let mut redactor = redactor();
    let Item::Record(raw) = redactor.item(Item::Record(raw)) else { panic!("no record") };
    let after = decode(&raw).unwrap();
    let (packet, entry) = (after.packet.unwrap(), after.entry.unwrap());
    assert_eq!(packet.tuple(), entry.reply);
    assert_ne!(packet.src.ip(), before.packet.unwrap().src.ip());
    assert_eq!(packet.src.port(), 443);
    assert!(entry.original.src.to_string().starts_with("10."), "{}", entry.original.src);
    assert_eq!(
        (packet.seq, packet.ack, after.nfct),
        (before.packet.unwrap().seq, before.packet.unwrap().ack, before.nfct)
    );
    assert_eq!(entry.seen, before.entry.unwrap().seen);
    assert_ne!(after.input.unwrap().name, before.input.unwrap().name);
    assert_ne!(after.skb, before.skb);
}

/// What this program cannot read it cannot redact: nothing of it is kept but that it was there.
#[test]
fn what_is_not_understood_is_not_let_through() {
    let mut build = Build::from_server(Hook::CtInvalid, 1, 2, 3, 4);
    build.record.version = 99;
    let unknown = build.bytes();
    let long = Bytes::from(vec![0x55; tracer_common::wire::RECORD_SIZE + 9]);
    for raw in [unknown, long] {
        let error = decode(&raw).unwrap_err();
        let after = redactor().record(&raw);
        assert_eq!(std::mem::discriminant(&decode(&after).unwrap_err()), std::mem::discriminant(&error));
        assert!(after.iter().filter(|byte| **byte != 0).count() <= 3, "{after:?}");
    }
}

/// A filter finds the same flows among the redacted ones.
#[test]
fn filters_go_along() {
    let mut redactor = redactor();
    let filter = Filter {
        client: vec!["10.0.0.0/24".parse().unwrap()],
        server: vec!["2001:db8::/32".parse().unwrap()],
        ..Filter::default()
    };
    let after = redactor.filter(&filter);
    for host in 0..=255 {
        let address = redactor.addresses.pseudonym([10, 0, 0, host].into());
        assert!(after.client[0].contains(&address));
    }
    assert!(!after.client[0].contains(&redactor.addresses.pseudonym([10, 0, 1, 0].into())));
    assert!(after.server[0].contains(&redactor.addresses.pseudonym("2001:db8:1::1".parse().unwrap())));
}

#[test]
fn texts_lose_addresses_and_names() {
    let mut redactor = redactor();
    let host = redactor.host(&Host { hostname: "gw-1.acme.example".to_owned(), ..Host::nobody() });
    let text =
        "gw-1.acme.example: 203.0.113.7:443 > [2001:db8::7]:80, SRC=203.0.113.7. net 203.0.113.0/24 (2001:db8::7)";
    let after = redactor.text(text);
    assert!(!after.contains("203.0") && !after.contains("db8") && !after.contains("acme"), "{after}");
    let address = redactor.addresses.pseudonym([203, 0, 113, 7].into());
    assert!(after.starts_with(&format!("{}: {address}:443 > [", host.hostname)), "{after}");
    assert!(after.contains(&format!("SRC={address}. net ")), "{after}");
    for plain in ["", "add: bad", "at 12:03:19.391426", "the table holds 5 of 6", "…", "1.2.3", "::"] {
        assert_eq!(redactor.text(plain), plain);
    }
}
