//! Shares that are typed or piped in: hidden on a terminal, each checked as soon as it is there, so
//! that a slip is corrected at once; otherwise one on each line of standard input.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read};
use std::os::fd::AsFd;

use agent::shown::plain;
use bundle::{MAX_SHARES, RecoveryShare, check_next};
use proto_types::Code;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::error::{CliError, Result};
use crate::key_files::damaged_share;
use crate::recovery::{Given, explain};

/// Slips in a row before a person is sent to look at the paper.
const SLIPS_MAX: u32 = 5;
/// More than all shares of the largest set, with comments.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Asks for shares until there are as many as rebuild the key.
///
/// # Errors
/// When what was given is no share, or does not go together.
pub(crate) fn ask() -> Result<Vec<Given>> {
    if std::io::stdin().is_terminal() { ask_person(None) } else { read_lines() }
}

/// Asks for one share.
///
/// # Errors
/// When what was given is no share.
pub(crate) fn ask_one() -> Result<Given> {
    let given = if std::io::stdin().is_terminal() { ask_person(Some(1))? } else { read_lines()? };
    let mut given = given.into_iter();
    match (given.next(), given.next()) {
        (Some(share), None) => Ok(share),
        (None, _) => Err(CliError::new(Code::KeyMissing, "no share was given")
            .with_remedy("give the file of one share, or one line on standard input")),
        (Some(_), Some(_)) => Err(CliError::usage("more than one share was given: give one")),
    }
}

/// The terminal, echoing nothing until this is dropped: also not what is typed or pasted between
/// two questions, or before the first one is read.
struct Unseen {
    terminal: File,
    before: Termios,
}

impl Unseen {
    fn begin() -> std::io::Result<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL);
        tcsetattr(&terminal, OptionalActions::Now, &unseen)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// An empty line ends it.
fn ask_person(wanted: Option<usize>) -> Result<Vec<Given>> {
    let _unseen = Unseen::begin().map_err(|error| unreadable("the terminal", &error))?;
    let mut given: Vec<Given> = Vec::new();
    let mut slips = 0;
    let mut slip = String::new();
    loop {
        let needed = given.first().map(|first| usize::from(first.share.set().threshold()));
        let needed = wanted.or(needed);
        if needed.is_some_and(|needed| given.len() >= needed) {
            return Ok(given);
        }
        let number = given.len() + 1;
        let prompt = match needed {
            Some(1) => "share (not shown): ".to_owned(),
            Some(needed) => format!("share {number} of {needed} (not shown): "),
            None => format!("share {number} (not shown): "),
        };
        let typed = match rpassword::prompt_password(format!("{slip}{prompt}")) {
            Ok(typed) => Zeroizing::new(typed),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(given),
            Err(error) => return Err(unreadable("the terminal", &error)),
        };
        if typed.trim().is_empty() {
            return Ok(given);
        }
        match understand(&typed, format!("share {number} as typed"), &given) {
            Ok(share) => {
                slips = 0;
                slip.clear();
                given.push(share);
            }
            Err(error) => {
                slips += 1;
                if slips == SLIPS_MAX {
                    return Err(error);
                }
                slip = format!("{}; type it again\n", plain(error.message()));
            }
        }
    }
}

fn understand(text: &str, place: String, given: &[Given]) -> Result<Given> {
    let share = RecoveryShare::from_text(text).map_err(|error| damaged_share(&place, &error))?;
    let before: Vec<&RecoveryShare> = given.iter().map(|given| &given.share).collect();
    if let Err(error) = check_next(&before, &share) {
        let places = given.iter().map(|given| given.place.as_str()).chain([place.as_str()]);
        return Err(explain(&error, &places.collect::<Vec<_>>()));
    }
    Ok(Given { share, place })
}

/// One share on each line; empty lines and comments mean nothing, so that files can be piped in.
fn read_lines() -> Result<Vec<Given>> {
    let text = read_input()?;
    let text = std::str::from_utf8(&text).map_err(|_| {
        CliError::new(Code::Damaged, "standard input is no text: give one share on each line")
    })?;
    let mut given: Vec<Given> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let place = format!("line {} of standard input", number + 1);
        if given.len() == usize::from(MAX_SHARES) {
            return Err(CliError::usage(format!("{place}: more shares than any set has")));
        }
        given.push(understand(line, place, &given)?);
    }
    Ok(given)
}

/// Read without the standard library's buffer, which would keep a copy.
fn read_input() -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error: &std::io::Error| unreadable("standard input", error);
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| failed(&error))?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(INPUT_BYTES_MAX + 1));
    File::from(input)
        .take(INPUT_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(&error))?;
    if bytes.len() > INPUT_BYTES_MAX {
        return Err(CliError::usage("standard input holds more than shares"));
    }
    Ok(bytes)
}

fn unreadable(what: &str, error: &std::io::Error) -> CliError {
    CliError::new(Code::LocalIo, format!("cannot read shares from {what}: {error}"))
        .with_remedy("give them in files with --share")
}
