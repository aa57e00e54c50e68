//! Running the program as a user does.

use assert_cmd::Command;

/// The program with these arguments, in an environment that says nothing of it.
pub(crate) fn whyrst(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whyrst"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("WHYRST_")) {
            command.env_remove(name);
        }
    }
    command.args(arguments).env("WHYRST_CONFIG", "/dev/null").env_remove("NO_COLOR").env("LC_ALL", "C.UTF-8");
    command
}

/// What it says on standard error, after it has ended with this status.
pub(crate) fn stderr(command: &mut Command, status: i32) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    text
}
