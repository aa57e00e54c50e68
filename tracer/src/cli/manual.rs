//! Man pages (`clap_mangen`) and completions (`clap_complete`), generated from the description of the command line.
//!
//! This module adds the sections that clap does not generate.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context as _;
use clap::Command;
use clap::builder::PossibleValuesParser;
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use tracer_model::cause::words;

use super::config::{self, FILE};
use super::suggest::did_you_mean;

/// The program's name.
const NAME: &str = "whyrst";
/// The exit status of every command.
const EXIT_STATUS: [(&str, &str); 4] = [
    ("0", "Success, whatever a report shows."),
    ("1", "A cause or finding of --fail-on was found."),
    ("2", "The command line, the environment or the configuration file is invalid, or a run-time error occurred."),
    ("3", "This host cannot be traced; standard error names the obstacles and their fixes."),
];
/// Variables besides those of the options.
const ENVIRONMENT: [(&str, &str); 6] = [
    (
        "WHYRST_*",
        "The default of an option, under the name given above. Commas separate the items of lists; flags are true or false.",
    ),
    ("WHYRST_CONFIG", "The configuration file, unless --config names one; /dev/null means none."),
    ("NO_COLOR, CLICOLOR, CLICOLOR_FORCE", "Whether --color auto uses colours."),
    ("COLUMNS", "Columns to wrap text at."),
    ("LC_ALL, LC_CTYPE, LANG", "Symbols beyond ASCII are used only in a UTF-8 locale."),
    ("TZ", "The time zone of --time local."),
];
/// The purpose of the configuration file.
const CONFIGURATION: &str = "Defaults of options, in TOML: those of every command at the top, those of one in a table of its \
    name, by their long names. The command line and the environment come first. \"whyrst config\" prints what is in force.";
/// The day of the last change of these pages.
const DATE: &str = "2026-12-01";
/// Related tools.
const OTHERS: [&str; 5] = ["conntrack(8)", "ip-netns(8)", "iptables(8)", "nft(8)", "tcpdump(8)"];

/// The man page of a command, or of the program.
pub(super) fn page(command: &Command, of: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let all = prepared(command);
    let page = match of {
        None => &all,
        Some(name) => all.find_subcommand(name).with_context(|| {
            let names: Vec<&str> = all.get_subcommands().map(Command::get_name).collect();
            let meant = did_you_mean(name, names.iter().copied());
            format!("there is no command {name}{meant} (there are {})", names.join(", "))
        })?,
    };
    Ok(render(&all, page)?)
}

/// Writes all man pages into a directory; returns how many.
pub(super) fn pages(command: &Command, directory: &Path) -> anyhow::Result<usize> {
    let all = prepared(command);
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let pages: Vec<&Command> = std::iter::once(&all).chain(all.get_subcommands()).collect();
    for page in &pages {
        let path = directory.join(format!("{}.1", title(page)));
        fs::write(&path, render(&all, page)?).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(pages.len())
}

/// The script that completes command lines in a shell.
pub(super) fn completions(command: &Command, shell: Shell, to: &mut dyn Write) -> io::Result<()> {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = command.clone().mut_subcommand("man", |man| {
        man.mut_arg("command", |command| command.value_parser(PossibleValuesParser::new(names)))
    });
    // zsh would offer only these words, but the argument can be a file too.
    let mut command = if shell == Shell::Zsh {
        command
    } else {
        command.mut_subcommand("explain", |explain| {
            explain.mut_arg("what", |what| what.value_parser(PossibleValuesParser::new(words())))
        })
    };
    // clap_complete panics on a write error; a buffer has none.
    let mut script = Vec::new();
    generate(shell, &mut command, NAME, &mut script);
    to.write_all(&script)
}

/// The finished description, without clap's command `help`.
fn prepared(command: &Command) -> Command {
    let mut command = config::described(command.clone()).disable_help_subcommand(true);
    command = command.subcommand_help_heading("COMMANDS").subcommand_value_name("COMMAND");
    command.build();
    command
}

/// `whyrst`, `whyrst-report`.
fn title(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn render(all: &Command, command: &Command) -> io::Result<Vec<u8>> {
    let title = title(command);
    let man = Man::new(command.clone()).title(title.to_uppercase()).date(DATE).manual("Network diagnosis");
    let man = man.source(format!("{NAME} {}", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    // No hyphenation and no justification, so that words can be copied.
    Roff::new().control("nh", []).control("ad", ["l"]).to_writer(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    man.render_options_section(&mut page)?;
    let mut more = Roff::new();
    tagged(&mut more, "EXIT STATUS", &EXIT_STATUS);
    tagged(&mut more, "ENVIRONMENT", &ENVIRONMENT);
    tagged(&mut more, "FILES", &[(FILE, CONFIGURATION)]);
    if let Some(examples) = examples(command) {
        more.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples.lines() {
            more.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        }
        more.control("fi", []);
    }
    let own = std::iter::once(all).chain(all.get_subcommands()).map(self::title).filter(|other| *other != title);
    let also: Vec<String> = own.map(|other| format!("{other}(1)")).chain(OTHERS.map(str::to_owned)).collect();
    more.control("SH", ["SEE ALSO"]).text([roman(also.join(", "))]);
    more.to_writer(&mut page)?;
    // groff reads ASCII unless an option says otherwise.
    let ascii = |character: char| match character {
        ascii if ascii.is_ascii() => ascii.to_string(),
        other => format!("\\[u{:04X}]", u32::from(other)),
    };
    Ok(String::from_utf8_lossy(&page).chars().map(ascii).collect::<String>().into_bytes())
}

/// A section of tags with a text each.
fn tagged(page: &mut Roff, heading: &str, entries: &[(&str, &str)]) {
    page.control("SH", [heading]);
    for (tag, text) in entries {
        page.control("TP", []).text([bold(*tag)]).text([roman(*text)]);
    }
}

/// The examples of a command's help.
pub(super) fn examples(command: &Command) -> Option<String> {
    let help = command.get_after_help()?.to_string();
    let (_, examples) = help.split_once("Examples:\n")?;
    Some(examples.split("\n\n").next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use clap::error::ErrorKind;
    use clap::{Command, CommandFactory as _};

    use super::{examples, prepared};
    use crate::cli::args::Arguments;

    /// The command lines of an example: without the remark beside it, without other programs, without redirections.
    fn commands(line: &str) -> impl Iterator<Item = Vec<&str>> {
        let typed = line.trim_start().split("   ").next().unwrap_or_default();
        typed
            .split(" | ")
            .filter_map(|part| part.find("whyrst ").map(|at| &part[at..]))
            .map(|part| part.split_once(" > ").map_or(part, |(command, _)| command).split_whitespace().collect())
    }

    /// Every command has examples, and every example is understood.
    #[test]
    fn examples_can_be_typed() {
        let all = prepared(&Arguments::command());
        for command in std::iter::once(&all).chain(all.get_subcommands()) {
            let name = command.get_name();
            let examples = examples(command).unwrap_or_else(|| panic!("{name} --help has no examples"));
            let mut typed = examples.lines().flat_map(commands).peekable();
            assert!(typed.peek().is_some(), "{name}: {examples}");
            for words in typed {
                if let Err(error) = Arguments::command().try_get_matches_from(&words) {
                    panic!("an example of {name}, {words:?}: {error}");
                }
            }
        }
    }

    /// The pages of this repository: those beside Cargo.toml, and all below docs/.
    fn pages(directory: &Path, deep: bool) -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries.fold(Vec::new(), |mut pages, path| {
            if path.is_dir() && deep {
                pages.extend(self::pages(&path, true));
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
            pages
        })
    }

    /// Every command line that a page shows in a block of its own is understood.
    #[test]
    fn what_the_pages_show_can_be_typed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut typed = 0;
        for page in [pages(&root, false), pages(&root.join("docs"), true)].concat() {
            let text = fs::read_to_string(&page).unwrap();
            // Every second piece is inside a block.
            let blocks = text.split("```").skip(1).step_by(2);
            for line in blocks.flat_map(str::lines) {
                let line = line.trim_start().trim_start_matches(['#', '$']).split(" #").next().unwrap_or_default();
                let line = line.trim_start().trim_end_matches(['|', '\\', ' ']);
                let shown = ["whyrst ", "ssh ", "dmesg ", "journalctl "].iter().any(|start| line.starts_with(start));
                // Skip lines with placeholders.
                if !shown || line.contains("COMMAND") || line.contains('…') {
                    continue;
                }
                for words in commands(line) {
                    typed += 1;
                    let words: Vec<&str> = words.into_iter().map(|word| word.trim_matches('\'')).collect();
                    if let Err(error) = Arguments::command().try_get_matches_from(&words) {
                        let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
                        assert!(help, "{}: {words:?}: {error}", page.display());
                    }
                }
            }
        }
        assert!(typed > 30, "only {typed} commands were found");
    }

    /// Every option has help, and every option with a value names its default.
    #[test]
    fn options_name_their_defaults() {
        let all = prepared(&Arguments::command());
        let mut silent = Vec::new();
        for command in std::iter::once(&all).chain(all.get_subcommands()) {
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                let named = help.contains("[default") || !arg.get_default_values().is_empty();
                if help.is_empty() || !(named || !arg.get_action().takes_values() || arg.is_required_set()) {
                    silent.push(format!("{} --{}: {help}", Command::get_name(command), arg.get_long().unwrap()));
                }
            }
        }
        assert_eq!(silent, [""; 0], "{silent:#?}");
    }
}
