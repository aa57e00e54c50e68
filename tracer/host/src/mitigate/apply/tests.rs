//! Applying, rolling back and undoing, with tools that keep their state in files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tracer_advice::{Target, describe};
use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::{Change, IptablesRule, Mitigation, MitigationId, Step};

use super::{MitigateError, apply, prepare};
use crate::mitigate::journal::{Entry, Journal, State};
use crate::mitigate::places::Places;
use crate::mitigate::undo::Undo;
use crate::netns::home;

/// Sets a sysctl, unless it is to fail.
const SYSCTL: &str = r#"#!/bin/sh
[ -e "$BENCH/sysctl-fails" ] && { echo 'permission denied' >&2; exit 255; }
name=${2%%=*}
[ -e "$BENCH/$name-is-fixed" ] || printf %s "${2#*=}" > "$BENCH/proc/$name"
"#;

/// Keeps rules as lines. It answers with the exit status in a file, where there is one for its verb.
const IPTABLES: &str = r#"#!/bin/sh
shift 2
verb=$1
shift
touch "$BENCH/rules"
[ -e "$BENCH/exit$verb" ] && { echo 'Another app is currently holding the xtables lock.' >&2; exit "$(cat "$BENCH/exit$verb")"; }
case $verb in
-I) echo "$*" >> "$BENCH/rules";;
-C) grep -qxF -e "$*" "$BENCH/rules" || { echo 'iptables: Bad rule (does a matching rule exist in that chain?).' >&2; exit 1; };;
-D) grep -qxF -e "$*" "$BENCH/rules" || exit 1; grep -vxF -e "$*" "$BENCH/rules" > "$BENCH/rest"; mv "$BENCH/rest" "$BENCH/rules";;
esac
[ -e "$BENCH/then$verb" ] && sh "$BENCH/then$verb"
exit 0
"#;

struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir_all(bench.path("bin")).unwrap();
        fs::create_dir_all(bench.path("proc")).unwrap();
        for (name, text) in [("sysctl", SYSCTL), ("iptables", IPTABLES)] {
            let (written, path) = (bench.path(name), bench.path("bin").join(name));
            fs::write(&written, text.replace("$BENCH", &bench.root.path().display().to_string())).unwrap();
            fs::set_permissions(&written, Permissions::from_mode(0o755)).unwrap();
            // A child of another test's thread may have the file open for writing, which cannot be executed then.
            assert!(Command::new("cp").args([&written, &path]).status().unwrap().success());
        }
        bench.set("one", "1");
        bench.set("two", "2");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn set(&self, name: &str, value: &str) {
        fs::write(self.path("proc").join(name), value).unwrap();
    }

    fn get(&self, name: &str) -> String {
        fs::read_to_string(self.path("proc").join(name)).unwrap()
    }

    fn both(&self) -> (String, String) {
        (self.get("one"), self.get("two"))
    }

    fn rules(&self) -> String {
        fs::read_to_string(self.path("rules")).unwrap_or_default()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn sysctl(name: &str, before: i64, after: i64) -> Step {
        Step { netns: NetnsPath::Here, change: Change::Sysctl { name: name.to_owned(), before, after } }
    }

    fn rule() -> Step {
        let rule = IptablesRule {
            program: "iptables".to_owned(),
            table: "filter".to_owned(),
            chain: "INPUT".to_owned(),
            rule: ["-m", "comment", "--comment", "whyrst:x", "-j", "DROP"].map(str::to_owned).to_vec(),
        };
        Step { netns: NetnsPath::Here, change: Change::IptablesRule(rule) }
    }

    fn places(&self) -> Places {
        self.fit(Places::of(&[(home().unwrap(), NetnsPath::Here)], &[]).unwrap())
    }

    /// The tools of this bench, with those of the system behind them.
    fn fit(&self, mut places: Places) -> Places {
        let mut tools = self.path("bin").into_os_string();
        tools.push(":");
        tools.push(&places.tools);
        (places.tools, places.sysctls) = (tools, self.path("proc"));
        places
    }

    fn undo(&self, entry: &Entry, force: bool) -> Result<Undo, MitigateError> {
        let places = self.fit(Places::again(&entry.places, true).unwrap());
        Undo::within(places, entry, force, true)
    }

    fn journal(&self) -> Journal {
        Journal::open(&self.path("state")).unwrap()
    }

    fn prepare(&self, steps: Vec<Step>) -> Result<Entry, MitigateError> {
        prepare(&mitigation(steps), "gw", &self.places())
    }
}

fn mitigation(steps: Vec<Step>) -> Mitigation {
    Mitigation { steps, ..describe(MitigationId::BeLiberal, &[] as &[Target<'_>]) }
}

fn latest(journal: &Journal) -> Entry {
    journal.of(MitigationId::BeLiberal).unwrap().whole.pop().unwrap().1
}

fn three() -> Vec<Step> {
    vec![Bench::sysctl("one", 1, 11), Bench::rule(), Bench::sysctl("two", 2, 22)]
}

#[test]
fn what_is_applied_is_undone() {
    let bench = Bench::new();
    let journal = bench.journal();
    let mut entry = bench.prepare(three()).unwrap();
    apply(&mut entry, &bench.places(), &journal).unwrap();
    assert_eq!((bench.both(), entry.state), (("11".into(), "22".into()), State::Applied));
    assert_eq!(bench.rules().lines().count(), 1);
    assert!(matches!(bench.prepare(three()), Err(MitigateError::AlreadyApplied { .. })));
    // Another process does the rest, from the file.
    let mut entry = latest(&journal);
    let undo = bench.undo(&entry, false).unwrap();
    assert_eq!(
        undo.lines(),
        ["sysctl -w two=2", "iptables -w 5 -D INPUT -m comment --comment whyrst:x -j DROP", "sysctl -w one=1"]
    );
    assert_eq!(undo.run(&mut entry, &journal).unwrap(), [""; 0]);
    assert_eq!((bench.both(), bench.rules(), entry.state), (("1".into(), "2".into()), String::new(), State::Undone));
    assert_eq!(bench.undo(&entry, false).unwrap().lines(), [""; 0], "a second time there is nothing to do");
}

#[test]
fn what_fails_half_way_is_rolled_back() {
    let bench = Bench::new();
    let journal = bench.journal();
    let mut entry = bench.prepare(three()).unwrap();
    bench.write("exit-I", "4");
    let error = apply(&mut entry, &bench.places(), &journal).unwrap_err();
    assert!(error.to_string().contains("xtables lock"), "{error}");
    assert!(error.to_string().ends_with("what had been done before was rolled back"), "{error}");
    assert_eq!(bench.both(), ("1".into(), "2".into()));
    assert_eq!(latest(&journal).state, State::RolledBack);
}

/// The command has made its change, and reports a failure all the same.
#[test]
fn what_fails_after_its_change_is_rolled_back() {
    let bench = Bench::new();
    let journal = bench.journal();
    let mut entry = bench.prepare(three()).unwrap();
    bench.write("then-I", "kill -9 $PPID");
    let error = apply(&mut entry, &bench.places(), &journal).unwrap_err();
    assert!(matches!(error, MitigateError::RolledBack { .. }), "{error}");
    assert_eq!((bench.both(), bench.rules()), (("1".into(), "2".into()), String::new()));
}

#[test]
fn what_has_no_effect_is_rolled_back() {
    let bench = Bench::new();
    let mut entry = bench.prepare(three()).unwrap();
    bench.write("two-is-fixed", "");
    let error = apply(&mut entry, &bench.places(), &bench.journal()).unwrap_err();
    assert!(error.to_string().contains("`sysctl -w two=22` had no effect"), "{error}");
    assert_eq!((bench.both(), bench.rules()), (("1".into(), "2".into()), String::new()));
}

/// Every step was run, and then a probe fails: nothing stays behind.
#[test]
fn a_probe_that_fails_after_the_commands() {
    let bench = Bench::new();
    let journal = bench.journal();
    let mut entry = bench.prepare(three()).unwrap();
    let lock = bench.path("exit-C").display().to_string();
    bench.write("then-I", &format!("echo 4 > {lock}"));
    let error = apply(&mut entry, &bench.places(), &journal).unwrap_err();
    let text = error.to_string();
    // Its own rule is deleted by the very command; but no probe shows that it is gone.
    assert!(text.contains("does not show whether it is in force") && text.contains("could be undone"), "{text}");
    assert_eq!((bench.both(), bench.rules()), (("1".into(), "2".into()), String::new()));
    assert!(latest(&journal).state.is_open(), "the undo can try again");
    bench.remove("exit-C");
    let mut entry = latest(&journal);
    bench.undo(&entry, false).unwrap().run(&mut entry, &journal).unwrap();
    assert_eq!(entry.state, State::Undone);
}

/// The journal cannot be written any more: nothing stays behind.
#[test]
fn a_journal_that_fails_after_the_commands() {
    let bench = Bench::new();
    let journal = bench.journal();
    let mut entry = bench.prepare(three()).unwrap();
    // Nobody can create a file in a directory that was removed.
    bench.write("then-I", &format!("rm -r {}", bench.path("state").display()));
    let error = apply(&mut entry, &bench.places(), &journal).unwrap_err();
    assert!(error.to_string().contains("the journal"), "{error}");
    assert!(matches!(error, MitigateError::RolledBack { .. }), "{error}");
    assert_eq!((bench.both(), bench.rules()), (("1".into(), "2".into()), String::new()));
}

/// Somebody else changes a value while whyrst rolls back: it is theirs.
#[test]
fn what_somebody_changed_meanwhile_is_not_rolled_back() {
    let bench = Bench::new();
    let mut entry = bench.prepare(three()).unwrap();
    bench.write("exit-I", "4");
    let foreign = bench.path("proc/one").display().to_string();
    let fake = fs::read_to_string(bench.path("bin/iptables")).unwrap();
    bench.write("fake", &fake.replacen("touch", &format!("[ $verb = -I ] && printf 7 > {foreign}\ntouch"), 1));
    assert!(Command::new("cp").args([bench.path("fake"), bench.path("bin/iptables")]).status().unwrap().success());
    let error = apply(&mut entry, &bench.places(), &bench.journal()).unwrap_err();
    assert!(error.to_string().contains("prints `7`, which is not of whyrst"), "{error}");
    assert_eq!(bench.get("one"), "7");
}

/// iptables cannot say whether its rule is there: that is no reason to believe that it is not.
#[test]
fn a_locked_iptables_stops_apply_and_undo() {
    let bench = Bench::new();
    let journal = bench.journal();
    bench.write("exit-C", "4");
    let error = bench.prepare(three()).unwrap_err();
    assert!(error.to_string().contains("xtables lock") && error.to_string().contains("nothing was changed"), "{error}");
    bench.remove("exit-C");
    let mut entry = bench.prepare(three()).unwrap();
    apply(&mut entry, &bench.places(), &journal).unwrap();
    bench.write("exit-C", "4");
    for force in [false, true] {
        let error = bench.undo(&entry, force).unwrap_err();
        assert!(matches!(error, MitigateError::Unknown(_)), "{error}");
    }
    assert_eq!((bench.both(), latest(&journal).state), (("11".into(), "22".into()), State::Applied));
}

#[test]
fn what_somebody_changed_since_is_left_alone() {
    let bench = Bench::new();
    let journal = bench.journal();
    let mut entry = bench.prepare(three()).unwrap();
    apply(&mut entry, &bench.places(), &journal).unwrap();
    bench.set("two", "33");
    let error = bench.undo(&entry, false).unwrap_err();
    assert!(error.to_string().contains("`22`") && error.to_string().contains("`33`"), "{error}");
    bench.undo(&entry, true).unwrap().run(&mut entry, &journal).unwrap();
    assert_eq!((bench.both(), bench.rules()), (("1".into(), "2".into()), String::new()));
}

/// It is changed while somebody thinks about the answer to the prompt.
#[test]
fn what_changes_after_the_plan_stops_the_undo() {
    let bench = Bench::new();
    let journal = bench.journal();
    let mut entry = bench.prepare(three()).unwrap();
    apply(&mut entry, &bench.places(), &journal).unwrap();
    for force in [false, true] {
        let undo = bench.undo(&entry, force).unwrap();
        bench.set("one", "33");
        let error = undo.run(&mut entry, &journal).unwrap_err();
        assert!(error.to_string().contains("somebody else is changing it"), "{error}");
        assert_eq!((bench.both(), entry.state), (("33".into(), "22".into()), State::Applied));
        bench.set("one", "11");
    }
}

/// It ended after any of the steps: the entry has that it had begun, and what there was before.
#[test]
fn what_was_interrupted_is_undone() {
    for steps in 0..=3 {
        let bench = Bench::new();
        let journal = bench.journal();
        let entry = bench.prepare(three()).unwrap();
        journal.write(&entry).unwrap();
        for step in &three()[..steps] {
            super::run(&step.apply(), &step.netns, &bench.places()).unwrap();
        }
        let mut entry = latest(&journal);
        let undo = bench.undo(&entry, false).unwrap();
        assert_eq!(undo.lines().len(), steps);
        undo.run(&mut entry, &journal).unwrap();
        assert_eq!((bench.both(), bench.rules()), (("1".into(), "2".into()), String::new()));
    }
}

/// What has another value than whyrst would have set belongs to somebody else, also after an interruption.
#[test]
fn what_was_interrupted_and_changed_is_left_alone() {
    let bench = Bench::new();
    let entry = bench.prepare(three()).unwrap();
    bench.set("one", "33");
    assert!(matches!(bench.undo(&entry, false), Err(MitigateError::ChangedSince(_))));
    assert_eq!(bench.undo(&entry, true).unwrap().lines(), ["sysctl -w one=1"]);
}

#[test]
fn what_cannot_be_undone_is_refused() {
    let bench = Bench::new();
    assert!(matches!(bench.prepare(vec![Bench::sysctl("missing", 1, 2)]), Err(MitigateError::Unknown(_))));
    assert!(matches!(bench.prepare(vec![Bench::sysctl("one", 0, 2)]), Err(MitigateError::Moving { .. })));
    for id in [MitigationId::UpgradeKernel, MitigationId::Keepalive, MitigationId::ReviewRejectRule] {
        let refused = prepare(&describe(id, &[]), "gw", &bench.places());
        assert!(matches!(refused, Err(MitigateError::CannotUndo { .. })), "{id}");
    }
    assert!(!Path::new(&bench.path("proc/missing")).exists());
}
