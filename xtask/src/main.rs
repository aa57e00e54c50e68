//! `cargo xtask`: builds, tests, measures and packages whyrst.
#![forbid(unsafe_code)]

mod arch;
mod arm64;
mod bench;
mod confusion;
mod demo;
mod deny;
mod dist;
mod fuzz;
mod initramfs;
mod judge;
mod kernels;
mod matrix;
mod process;
mod setup;
mod test;
mod tools;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::process::{cargo, execute};

/// The test that builds the book.
const BOOK: [&str; 9] = ["test", "--quiet", "--locked", "--package", "xtask", "--test", "book", "--", "--nocapture"];

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install the tools for building and testing: BPF toolchain, QEMU, programs for the guest
    Setup,
    /// Boot kernels in QEMU and run scenarios on them
    Vm(matrix::Arguments),
    /// Set up, build, boot a 5.10 kernel, reset a download there, and show whyrst's report
    Demo,
    /// Set up and run every test: format, lints, unit tests, documentation, scenarios on every kernel
    Test,
    /// Load rulesets and compare what this machine's kernel does with packets with what whyrst concludes
    Judge(judge::Arguments),
    /// Build the documentation as a book into target/book, and check every link in it
    Book,
    /// Check licences, sources, versions and known vulnerabilities of dependencies
    Deny,
    /// Fuzz the parsers of foreign bytes
    Fuzz(fuzz::Arguments),
    /// Measure the costs of whyrst
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Build the release artefacts into target/dist: static binary, Debian package, archive, checksums, bill of materials
    Dist(dist::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup => setup::all(),
        Command::Vm(arguments) => matrix::run(&arguments),
        Command::Demo => demo::run(),
        Command::Test => test::run(),
        Command::Judge(arguments) => judge::run(&arguments),
        Command::Book => execute(cargo().args(BOOK)),
        Command::Deny => deny::run(),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Bench(bench) => bench::run(&bench),
        Command::Dist(arguments) => dist::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    /// clap checks an option only when its command runs.
    #[test]
    fn every_command_is_well_formed() {
        super::Arguments::command().debug_assert();
    }
}
