//! What is left of items, and that it still means the same.

use bytes::Bytes;

use tracer_common::Hook;
use tracer_model::capture::{Gap, GapReason, Item, LookUp, LookedUp, Outcome, Request};
use tracer_model::conntrack::Tuple;
use tracer_model::decode::decode;
use tracer_model::filter::Filter;
use tracer_model::host_context::{Dropping, HostContext, NetnsPath};
use tracer_model::ruleset::{Family, Rules};
use tracer_model::table_usage::Counting;
use tracer_model::time::Instant;
use tracer_testing::{Build, REPLY};

use super::{Key, Redactor, text};

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

/// The kernel is asked about the connections that there are.
#[test]
fn requests_are_about_the_originals() {
    let mut redactor = redactor();
    let tuple = Tuple { src: "10.0.0.2:34567".parse().unwrap(), dst: "[2001:db8::2]:443".parse().unwrap() };
    let redacted = redactor.tuple(tuple);
    assert_ne!(redacted, tuple);
    let about = |tuple| Request::LookUp(LookUp { netns: 7, zone: 0, tuple });
    assert_eq!(redactor.request(about(redacted)), about(tuple));
    assert_eq!(redactor.request(Request::Rules(7)), Request::Rules(7));
}

#[test]
fn texts_about_the_kernel_lose_addresses() {
    let text = "this kernel has no function 203.0.113.7:443 > [2001:db8::7]:80, SRC=203.0.113.7. gw-1.acme.example ok";
    assert_eq!(text::own_words(text), "this kernel has no function ? > ? ? ? ok");
    for plain in ["", "add: bad", "it reports all RSTs from Linux 6.10 on", "the table holds 5 of 6", "…", "state %s"]
    {
        assert_eq!(text::own_words(plain), plain);
    }
}

/// What somebody named stays out of every text, however many names there were before: none has to be remembered.
#[test]
fn texts_name_nobody() {
    const NETNS: u32 = 7;
    let mut redactor = redactor();
    let mut left: Vec<Item> = Vec::new();
    for number in 0..2_000 {
        let name = format!("acme-{number}");
        let problem = format!("network namespace {name}: chain {name} of 203.0.113.7 cannot be read");
        let mut rules = Rules {
            netns: NETNS,
            began: Instant(1),
            at: Instant(2),
            generation: None,
            bridged: false,
            rules: Vec::new(),
            problems: Vec::new(),
            whole: None,
        };
        rules.problems = vec![problem.clone(); 2];
        let mut context = HostContext::unknown(NETNS, Instant(1), NetnsPath::Named(name.clone()));
        context.problems.push(problem.clone());
        context.drops.push(Dropping {
            rule: format!("inet {name} input: ip daddr 203.0.113.7 comment \"{name}\" drop"),
            family: Family::Inet,
            input: Some(name.clone()),
            destination: Some([203, 0, 113, 7].into()),
            narrow: false,
        });
        let tuple = Tuple { src: "10.0.0.2:1".parse().unwrap(), dst: "203.0.113.7:2".parse().unwrap() };
        let failed = LookedUp {
            look_up: LookUp { netns: NETNS, zone: 0, tuple },
            at: Instant(1),
            outcome: Outcome::Failed { because: problem.clone() },
        };
        let what = format!("{name}.whyrst: damaged");
        let usage = Counting::default().finish(NETNS, Instant(9), Some(problem));
        for item in [
            Item::Rules(rules),
            Item::HostContext(Box::new(context)),
            Item::LookedUp(Box::new(failed)),
            Item::TableUsage(usage),
            Item::Gap(Gap { from: None, until: None, why: GapReason::Damaged { what } }),
        ] {
            left.push(redactor.item(item));
        }
    }
    for item in &left {
        let shown = format!("{item:?}");
        assert!(!shown.contains("acme") && !shown.contains("203.0"), "{shown}");
    }
    let text = format!("{:?}", &left[left.len() - 5..]);
    assert_eq!(text.matches("left out: redacted").count(), 4, "each kind says that there was one: {text}");
    assert!(text.contains("ct state invalid drop"), "{text}");
}

/// A message that no known kernel has stays, without what looks like an address.
#[test]
fn words_of_unknown_kernels_stay() {
    let mut build = Build::from_server(Hook::CtInvalid, 1, 2, 3, 4);
    build.record.present |= tracer_common::wire::present::TEXT;
    let format = b"a new remark on 203.0.113.7:80";
    build.record.format[..format.len()].copy_from_slice(format);
    let Item::Record(raw) = redactor().item(Item::Record(build.bytes())) else { panic!("no record") };
    let message = decode(&raw).unwrap().words.unwrap();
    assert_eq!(message.format.as_str(), "a new remark on ?");
}
