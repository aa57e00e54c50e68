//! `whyrst mitigate --apply` and `--undo` with the tools of this machine, in network and mount namespaces of their own: what
//! is there after the undo is what was there before. It needs root.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// How iptables and nft are called where somebody looks at all rules.
const SAVERS: [&str; 4] = ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"];
const DROP: [&str; 5] = ["drop-invalid-input", "--address", "127.0.0.1", "--interface", "lo"];
const UNTRACK: [&str; 3] = ["untrack-service", "--service", "192.0.2.9:443"];

/// A gateway: namespaces that live as long as a process in them.
struct Gateway {
    holder: Child,
    root: tempfile::TempDir,
    path: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ended = self.holder.kill().and_then(|()| self.holder.wait());
    }
}

impl Gateway {
    /// None where this user or this machine cannot have one. Programs in `hidden` are not there.
    fn new(hidden: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: it needs root");
            return None;
        }
        let tools = ["nft", "iptables-nft", "iptables-legacy", "unshare", "nsenter", "ip", "python3"];
        let directories = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
        let missing = |tool: &&&str| !directories.iter().any(|directory| Path::new(directory).join(tool).exists());
        if let Some(tool) = tools.iter().find(missing) {
            eprintln!("skipped: there is no {tool}");
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        let hide = |program: &&str| format!("mount --bind /dev/null \"$(readlink -f \"$(command -v {program})\")\"");
        let lines = ["set -e".to_owned(), "ip link set lo up".to_owned()].into_iter().chain(hidden.iter().map(hide));
        let script = lines.chain(["echo ready; exec sleep infinity".to_owned()]).collect::<Vec<_>>().join("\n");
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--mount", "--uts", "sh", "-c", &script]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let mut holder = unshare.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", root.path().join("bin").display());
        Some(Self { holder, root, path })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "--net", "--mount", "--uts"]).args(words);
        command.env("PATH", &self.path).env("LC_ALL", "C.UTF-8").env_remove("WHYRST_LOG").stdin(Stdio::null());
        command
    }

    fn ran(&self, words: &[&str]) -> (bool, String, String) {
        let output = self.command(words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    fn run(&self, words: &[&str]) -> String {
        let (success, stdout, stderr) = self.ran(words);
        assert!(success, "{words:?}: {stdout}{stderr}");
        stdout
    }

    fn mitigate_command(&self, words: &[&str]) -> Command {
        let mut command = self.command(&[env!("CARGO_BIN_EXE_whyrst"), "mitigate"]);
        command.args(words).args(["--yes", "--state-dir"]).arg(self.journal());
        command
    }

    fn mitigate(&self, words: &[&str]) -> (bool, String) {
        let output = self.mitigate_command(words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn apply(&self, words: &[&str]) {
        let (success, text) = self.mitigate(&[words, &["--apply", "--watch", "0"]].concat());
        assert!(success, "{words:?}: {text}");
    }

    fn undo(&self, id: &str) {
        let (success, text) = self.mitigate(&[id, "--undo"]);
        assert!(success, "{id}: {text}");
    }

    fn journal(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// All rules, without counters.
    fn rules(&self) -> String {
        let mut text = String::new();
        if self.ran(&["nft", "--version"]).0 {
            text += &self.run(&["nft", "-s", "list", "ruleset"]);
        }
        for saver in SAVERS {
            let saved = self.ran(&[saver]).1;
            let lines = saved.lines().filter(|line| !line.starts_with('#'));
            text.extend(lines.map(|line| format!("{saver}: {}\n", line.split(" [").next().unwrap_or(line))));
        }
        text
    }

    /// A program that is found before the system's own. `$REAL` is that one.
    fn fake(&self, name: &str, script: &str) {
        let bin = self.root.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let real =
            ["/usr/sbin", "/sbin", "/usr/bin"].into_iter().map(|it| Path::new(it).join(name)).find(|it| it.exists());
        let script = script.replace("$REAL", &real.unwrap().display().to_string());
        fs::write(bin.join(name), script).unwrap();
        fs::set_permissions(bin.join(name), Permissions::from_mode(0o755)).unwrap();
    }

    fn use_system_tools(&self) {
        let _not_there = fs::remove_dir_all(self.root.path().join("bin"));
    }
}

/// The rules of a gateway, written with iptables.
fn iptables_rules(gateway: &Gateway, program: &str) {
    for rule in [
        "-t nat -A POSTROUTING -o lo -j MASQUERADE",
        "-A INPUT -i lo -j ACCEPT",
        "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "-P OUTPUT ACCEPT",
        "-t raw -P PREROUTING ACCEPT",
        "-t raw -P OUTPUT ACCEPT",
    ] {
        let words: Vec<&str> = [program].into_iter().chain(rule.split(' ')).collect();
        gateway.run(&words);
    }
}

fn nft_rules(gateway: &Gateway) {
    gateway.run(&[
        "nft",
        "add table inet nat; add chain inet nat post { type nat hook postrouting priority 100; }; \
         add rule inet nat post oifname lo masquerade; add table inet filter; \
         add chain inet filter forward { type filter hook forward priority 0; policy drop; }; \
         add rule inet filter forward ct state established accept",
    ]);
}

/// Applies and undoes both mitigations that write rules; lines with these words apply them.
fn both_ways(gateway: &Gateway, lines: [&str; 2]) {
    let before = gateway.rules();
    for (words, line) in [DROP.as_slice(), &UNTRACK].into_iter().zip(lines) {
        let (success, text) = gateway.mitigate(words);
        assert!(success && text.contains(&format!("run:     {line}")), "{text}");
        gateway.apply(words);
        let during = gateway.rules();
        assert!(during.contains(&format!("whyrst:{}", words[0])), "{during}");
        let (success, text) = gateway.mitigate(&[words, &["--apply", "--watch", "0"]].concat());
        assert!(!success, "twice: {text}");
        gateway.undo(words[0]);
        assert_eq!(gateway.rules(), before, "{}", words[0]);
    }
}

const BY_NFT: [&str; 2] = ["nft 'create table inet whyrst; ", "nft 'create table inet whyrst_untrack; "];

#[test]
fn where_nft_wrote_the_rules() {
    let Some(gateway) = Gateway::new(&[]) else { return };
    nft_rules(&gateway);
    both_ways(&gateway, BY_NFT);
}

#[test]
fn where_iptables_wrote_the_rules_and_there_is_nft() {
    for program in ["iptables-nft", "iptables-legacy"] {
        let Some(gateway) = Gateway::new(&[]) else { return };
        iptables_rules(&gateway, program);
        both_ways(&gateway, BY_NFT);
    }
}

#[test]
fn by_iptables_where_there_is_no_nft() {
    for program in ["iptables-nft", "iptables-legacy"] {
        let Some(gateway) = Gateway::new(&["nft"]) else { return };
        iptables_rules(&gateway, program);
        both_ways(&gateway, ["iptables"; 2]);
    }
}

/// iptables makes a table for the rule. Somebody adds a rule to it that iptables cannot list: the undo deletes whyrst's rule,
/// and neither that one nor the table.
#[test]
fn a_table_that_others_use_stays() {
    let Some(gateway) = Gateway::new(&["nft"]) else { return };
    gateway.run(&["iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-o", "lo", "-j", "MASQUERADE"]);
    let (_, text) = gateway.mitigate(&DROP);
    assert!(text.contains("has no table filter here yet; undo leaves an empty one"), "{text}");
    gateway.apply(&DROP);
    let own = |words: &[&str]| {
        // Without the mount namespace, in which there is no nft.
        let mut command = Command::new("nsenter");
        command.args(["-t", &gateway.holder.id().to_string(), "--net", "/usr/sbin/nft"]).args(words);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    own(&["add rule ip filter INPUT ct state invalid counter comment \"of-somebody-else\""]);
    gateway.undo("drop-invalid-input");
    let left = own(&["list", "table", "ip", "filter"]);
    assert!(left.contains("of-somebody-else") && !left.contains("drop"), "{left}");
}

/// Somebody changes the table, or makes one with the same name.
#[test]
fn a_table_that_was_changed_is_left_alone() {
    let Some(gateway) = Gateway::new(&[]) else { return };
    nft_rules(&gateway);
    let before = gateway.rules();
    for change in [
        "add rule inet whyrst input counter",
        "flush chain inet whyrst input",
        "add chain inet whyrst mine",
        "add set inet whyrst mine { type ipv4_addr; }",
        "delete table inet whyrst; add table inet whyrst",
    ] {
        gateway.apply(&DROP);
        gateway.run(&["nft", change]);
        let during = gateway.rules();
        let (success, text) = gateway.mitigate(&["drop-invalid-input", "--undo"]);
        assert!(!success && text.contains("changed it since"), "{change}: {text}");
        assert_eq!(gateway.rules(), during, "{change}");
        let (success, text) = gateway.mitigate(&["drop-invalid-input", "--undo", "--force"]);
        assert!(success, "{change}: {text}");
        assert_eq!(gateway.rules(), before, "{change}");
    }
    // Somebody has deleted it: nothing is left to do.
    gateway.apply(&DROP);
    gateway.run(&["nft", "delete table inet whyrst"]);
    let (success, text) = gateway.mitigate(&["drop-invalid-input", "--undo"]);
    assert!(success && text.contains("there was nothing to change"), "{text}");
}

/// A table with this name is somebody else's: it is neither changed nor deleted.
#[test]
fn a_table_with_the_same_name() {
    let Some(gateway) = Gateway::new(&[]) else { return };
    nft_rules(&gateway);
    gateway.run(&["nft", "add table inet whyrst"]);
    let before = gateway.rules();
    let (success, text) = gateway.mitigate(&[DROP.as_slice(), &["--apply", "--watch", "0"]].concat());
    assert!(!success && text.contains("which is not what drop-invalid-input makes"), "{text}");
    // The one that somebody makes between the probe and the command.
    gateway.run(&["nft", "delete table inet whyrst"]);
    gateway.fake("nft", "#!/bin/sh\n[ \"$1\" = -f ] && $REAL add table inet whyrst\nexec $REAL \"$@\"\n");
    let (success, text) = gateway.mitigate(&[DROP.as_slice(), &["--apply", "--watch", "0"]].concat());
    assert!(!success && text.contains("File exists"), "{text}");
    gateway.use_system_tools();
    assert_eq!(gateway.rules(), before, "{text}");
}

/// whyrst is killed before or after any of its commands: the undo restores what there was.
#[test]
fn killed_at_every_step() {
    for (hidden, program, words, steps) in
        [(["nft"].as_slice(), "iptables", UNTRACK.as_slice(), 10), (&[], "nft", &UNTRACK, 1), (&[], "nft", &DROP, 1)]
    {
        for step in 1..=steps {
            for after in [false, true] {
                let Some(gateway) = Gateway::new(hidden) else { return };
                if program == "nft" {
                    nft_rules(&gateway);
                } else {
                    iptables_rules(&gateway, "iptables-nft");
                }
                let before = gateway.rules();
                let count = gateway.root.path().join("count").display().to_string();
                let (early, late) = if after { ("", "kill -9 $PPID") } else { ("kill -9 $PPID; exit 1", "") };
                let script = format!(
                    "#!/bin/sh\ncase \"$*\" in *' -I '*|'-f -') echo >> {count}; if [ $(wc -l < {count}) = {step} ]; then \
                     {early}\n$REAL \"$@\"; {late}\nexit; fi;; esac\nexec $REAL \"$@\"\n"
                );
                gateway.fake(program, &script);
                let (success, _) = gateway.mitigate(&[words, &["--apply", "--watch", "0"]].concat());
                assert!(!success, "{program} {step}");
                gateway.use_system_tools();
                let done = if after { step } else { step - 1 };
                let during = gateway.rules();
                assert_eq!(during != before, done > 0, "{program} {step} {after}: {during}");
                gateway.undo(words[0]);
                assert_eq!(gateway.rules(), before, "{program} {step} {after}");
            }
        }
    }
}

/// A command fails half-way: whyrst rolls back by itself.
#[test]
fn a_command_that_fails() {
    for step in 1..=10 {
        let Some(gateway) = Gateway::new(&["nft"]) else { return };
        iptables_rules(&gateway, "iptables-nft");
        let before = gateway.rules();
        let count = gateway.root.path().join("count").display().to_string();
        gateway.fake(
            "iptables",
            &format!(
                "#!/bin/sh\ncase \"$*\" in *' -I '*) echo >> {count}; [ $(wc -l < {count}) = {step} ] && {{ echo no >&2; exit 4; \
                 }};; esac\nexec $REAL \"$@\"\n"
            ),
        );
        let (success, text) = gateway.mitigate(&[UNTRACK.as_slice(), &["--apply", "--watch", "0"]].concat());
        assert!(!success && text.contains("what had been done before was rolled back"), "{step}: {text}");
        gateway.use_system_tools();
        assert_eq!(gateway.rules(), before, "{step}");
    }
}

/// iptables cannot say whether its rule is there, because another program holds its lock.
#[test]
fn a_lock_is_no_absence() {
    let Some(gateway) = Gateway::new(&["nft"]) else { return };
    iptables_rules(&gateway, "iptables-nft");
    gateway.apply(&DROP);
    gateway.fake(
        "iptables",
        "#!/bin/sh\ncase \"$*\" in *' -C '*) echo the xtables lock >&2; exit 4;; esac\nexec $REAL \"$@\"\n",
    );
    let during = gateway.rules();
    let (success, text) = gateway.mitigate(&["drop-invalid-input", "--undo"]);
    assert!(
        !success && text.contains("does not show whether it is in force: exit status: 4: the xtables lock"),
        "{text}"
    );
    let (success, text) = gateway.mitigate(&[UNTRACK.as_slice(), &["--apply", "--watch", "0"]].concat());
    assert!(!success && text.contains("nothing was changed"), "{text}");
    assert_eq!(gateway.rules(), during);
    gateway.use_system_tools();
    gateway.undo("drop-invalid-input");
}

/// Makes a change while whyrst counts, between the printed plan and the first command.
fn during_the_watch(gateway: &Gateway, words: &[&str], change: &[&str]) -> (bool, String) {
    let mut command = gateway.mitigate_command(&[words, &["--apply", "--watch", "3s"]].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 16];
    std::io::Read::read_exact(child.stderr.as_mut().unwrap(), &mut said).unwrap();
    gateway.run(change);
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn what_changes_between_the_plan_and_the_commands() {
    let Some(gateway) = Gateway::new(&[]) else { return };
    nft_rules(&gateway);
    let during_the_watch = |words: &[&str], change: &[&str]| during_the_watch(&gateway, words, change);
    let (success, text) = during_the_watch(&DROP, &["nft", "add table inet whyrst"]);
    assert!(!success && text.contains("which is not what drop-invalid-input makes"), "{text}");
    gateway.run(&["nft", "delete table inet whyrst"]);
    let (success, text) = during_the_watch(
        &UNTRACK,
        &["nft", "add chain inet filter input { type filter hook input priority 0; policy drop; }"],
    );
    assert!(!success && text.contains("changed since the commands were printed"), "{text}");
    assert!(!gateway.rules().contains("whyrst"), "{}", gateway.rules());
    let sysctl = "net.netfilter.nf_conntrack_tcp_timeout_established";
    gateway.run(&["sysctl", "-w", &format!("{sysctl}=100")]);
    let (success, text) = during_the_watch(&["raise-timeout"], &["sysctl", "-w", &format!("{sysctl}=200")]);
    assert!(!success && text.contains("nothing was changed"), "{text}");
    assert_eq!(gateway.run(&["sysctl", "-n", sysctl]).trim(), "200");
}

/// The name of a namespace is bound to another one: neither of both is changed.
#[test]
fn a_name_that_leads_elsewhere() {
    let Some(gateway) = Gateway::new(&[]) else { return };
    gateway.run(&["sh", "-c", "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip netns add gw"]);
    let words = [DROP.as_slice(), &["--netns", "gw"]].concat();
    let (success, text) = during_the_watch(&gateway, &words, &["sh", "-c", "ip netns del gw && ip netns add gw"]);
    assert!(!success && text.contains("the name \"gw\" led to the network namespace"), "{text}");
    assert_eq!(gateway.run(&["ip", "netns", "exec", "gw", "nft", "list", "ruleset"]), "");
    // The undo leaves another namespace of the same name alone.
    let (success, text) = gateway.mitigate(&[&words, ["--apply", "--watch", "0"].as_slice()].concat());
    assert!(success, "{text}");
    gateway.run(&["sh", "-c", "ip netns del gw && ip netns add other && ip netns add gw"]);
    gateway.run(&["ip", "netns", "exec", "gw", "nft", "add table inet whyrst"]);
    let (success, text) = gateway.mitigate(&["drop-invalid-input", "--undo"]);
    assert!(!success, "{text}");
    assert!(gateway.run(&["ip", "netns", "exec", "gw", "nft", "list", "ruleset"]).contains("whyrst"), "{text}");
}

/// A recording of another boot of a host with the same name: it may name the namespace.
#[test]
fn a_recording_of_another_boot() {
    const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/5.10/late-retransmission.whyrst");
    let Some(gateway) = Gateway::new(&[]) else { return };
    gateway.run(&["sh", "-c", "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip netns add gateway"]);
    let words = ["drop-invalid-input", "--from", RECORDING, "--apply", "--watch", "0", "--format", "json"];
    let (success, text) = gateway.mitigate(&words);
    assert!(!success && text.contains("apply the mitigation there"), "{text}");
    gateway.run(&["hostname", "lab"]);
    let (success, text) = gateway.mitigate(&words);
    assert!(success && text.contains("the recording is of another boot of a host with this name"), "{text}");
    assert!(gateway.run(&["ip", "netns", "exec", "gateway", "nft", "list", "ruleset"]).contains("table inet whyrst"));
    assert!(!gateway.rules().contains("whyrst"), "the namespace that whyrst is in");
    gateway.undo("drop-invalid-input");
    assert_eq!(gateway.run(&["ip", "netns", "exec", "gateway", "nft", "list", "ruleset"]), "");
}

/// The next packet that conntrack refuses moves the counter of the rule.
#[test]
fn a_packet_that_the_rule_drops() {
    const NULL_FLAGS: &str = "import socket, struct\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)\n\
        s.sendto(struct.pack('!HHIIBBHHH', 1, 2, 3, 4, 5 << 4, 0, 5, 0, 0), ('127.0.0.1', 0))";
    for hidden in [[].as_slice(), &["nft"]] {
        let Some(gateway) = Gateway::new(hidden) else { return };
        iptables_rules(&gateway, "iptables-nft");
        let verify = |time: &str, send: bool| -> Value {
            let words = [DROP.as_slice(), &["--apply", "--watch", "0", "--verify", time, "--format", "json"]].concat();
            let mut command = gateway.mitigate_command(&words);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut said = [0; 16];
            std::io::Read::read_exact(child.stderr.as_mut().unwrap(), &mut said).unwrap();
            if send {
                gateway.run(&["python3", "-c", NULL_FLAGS]);
            }
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let document: Value = serde_json::from_slice(&output.stdout).unwrap();
            gateway.undo("drop-invalid-input");
            document["outcome"].clone()
        };
        let outcome = verify("60", true);
        assert_eq!(outcome["in_force"], true, "{outcome}");
        assert!(outcome["verified"]["packets"].as_u64() > Some(0), "{outcome}");
        let outcome = verify("1s", false);
        assert_eq!(outcome["verified"]["packets"], 0, "{outcome}");
    }
    let Some(gateway) = Gateway::new(&[]) else { return };
    iptables_rules(&gateway, "iptables-nft");
    let (success, text) = gateway.mitigate(&["be-liberal", "--apply", "--verify", "--watch", "0"]);
    assert!(!success && text.contains("has no rule with a counter"), "{text}");
}
