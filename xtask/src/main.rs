//! `cargo xtask`: everything about whyrst that is not whyrst.
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
    /// Find or install what building and testing need: the BPF toolchain, QEMU, the guest's tools
    Setup,
    /// Boot kernels in QEMU and run scenarios on them
    Vm(matrix::Arguments),
    /// Set up, build, boot a 5.10 kernel, and watch a download die and whyrst say why
    Demo,
    /// Set up and run every test: format, lints, unit tests, docs, and the scenarios on every kernel
    Test,
    /// Build the documentation as a book into target/book, and check every link in it
    Book,
    /// Check licences, sources and versions of dependencies, and what is known against them
    Deny,
    /// Fuzz what reads bytes of others, and keep the inputs that matter
    Fuzz(fuzz::Arguments),
    /// Measure what whyrst costs
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Build what is given away into target/dist: one static binary, a Debian package, an archive, their sums, and what is in
    /// them
    Dist(dist::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup => setup::all(),
        Command::Vm(arguments) => matrix::run(&arguments),
        Command::Demo => demo::run(),
        Command::Test => test::run(),
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

    /// clap looks at an option only when its command is run.
    #[test]
    fn every_command_is_well_formed() {
        super::Arguments::command().debug_assert();
    }
}
