//! `whyrst mitigate` without root and without a kernel: its output and its errors.

use assert_cmd::Command;
use rstest::rstest;
use serde_json::Value;

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/5.10/late-retransmission.whyrst");

fn whyrst(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whyrst"));
    command.args(arguments).env_remove("WHYRST_LOG").env_remove("NO_COLOR").env("LC_ALL", "C.UTF-8");
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[rstest]
#[case::unknown(&["mitigate", "drop-invalid"], "a similar value exists: 'drop-invalid-input'")]
#[case::apply_what(&["mitigate", "--apply"], "<ID>")]
#[case::undo_what(&["mitigate", "--undo"], "<ID>")]
#[case::both(&["mitigate", "be-liberal", "--apply", "--undo"], "cannot be used with")]
#[case::nothing_to_force(&["mitigate", "be-liberal", "--force"], "--undo")]
#[case::no_interface(&["mitigate", "be-liberal", "--interface", "a b"], "not a valid interface name")]
#[case::no_port(&["mitigate", "untrack-service", "--service", "192.0.2.1"], "not an address with a port")]
#[case::no_address(&["mitigate", "drop-invalid-input", "--address", "gateway"], "invalid IP address")]
#[case::no_such_namespace(&["mitigate", "be-liberal", "--netns", "$(x)\u{1b}[2J"], "--netns $(x)\\u{1b}[2J: no network namespace has this name")]
#[case::no_such_recording(&["mitigate", "be-liberal", "--from", "/nonexistent"], "/nonexistent")]
#[case::another_host(&["mitigate", "be-liberal", "--from", RECORDING, "--apply", "--yes"], "apply the mitigation there")]
#[case::no_undo(&["mitigate", "keepalive", "--apply", "--yes"], "keepalive cannot be applied by whyrst")]
fn wrong_usage_is_status_2(#[case] arguments: &[&str], #[case] expected: &str) {
    let (status, _, errors) = whyrst(arguments);
    assert_eq!(status, 2, "{errors}");
    assert!(errors.contains(expected), "{errors}");
    assert!(!errors.contains('\u{1b}'), "{errors:?}");
}

#[test]
fn the_mitigations_of_an_incident() {
    let (status, list, _) = whyrst(&["mitigate", "--from", RECORDING]);
    assert_eq!(status, 0);
    assert!(list.contains("✓ drop-invalid-input") && list.contains("· raise-timeout"), "{list}");
    let (status, one, _) = whyrst(&["mitigate", "drop-invalid-input", "--from", RECORDING]);
    assert_eq!(status, 0);
    for wanted in
        ["run:     ip netns exec gateway nft 'create table inet whyrst; ", "undo: ", "cost: ", "--apply runs it"]
    {
        assert!(one.contains(wanted), "`{wanted}` is not in:\n{one}");
    }
}

#[test]
fn json_fits_its_schema() {
    let (_, schema, _) = whyrst(&["schema", "mitigate"]);
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for arguments in [
        ["mitigate", "--format", "json"].as_slice(),
        &["mitigate", "--format", "json", "--from", RECORDING],
        &["mitigate", "be-liberal", "--format", "json", "--from", RECORDING],
        &["mitigate", "untrack-service", "--service", "[2001:db8::7]:443", "--format", "json"],
    ] {
        let (status, text, errors) = whyrst(arguments);
        assert_eq!(status, 0, "{errors}");
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["schema"], "whyrst.mitigate.v1");
        let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{arguments:?}: {errors:?}");
    }
}
