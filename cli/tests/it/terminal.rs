//! Shares typed by a person: on a real terminal, made by util-linux's `script`.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use crate::shares::{Holders, frozen};

/// A program on a terminal of its own.
struct Terminal {
    child: Child,
    seen: String,
}

impl Terminal {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self { child, seen: String::new() }
    }

    /// Waits until the terminal shows this, and forgets all before it; gives what was shown.
    fn shows(&mut self, wanted: &str) -> String {
        let mut byte = [0];
        while !self.seen.ends_with(wanted) {
            let read = self.child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert_eq!(read, 1, "{wanted:?} was not shown, but {:?}", self.seen);
            self.seen.push(char::from(byte[0]));
        }
        std::mem::take(&mut self.seen)
    }

    fn types(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
        input.flush().unwrap();
    }
}

/// Asks for shares on a terminal, and opens a point with them.
fn verify(holders: &Holders) -> Terminal {
    let verify =
        format!("'{}' key verify --file point.srx --shares", env!("CARGO_BIN_EXE_strongroom"));
    Terminal::start(
        Command::new("script")
            .args(["-qec", &verify, "/dev/null"])
            .current_dir(holders.directory())
            .env_remove("STRONGROOM_OUTPUT"),
    )
}

fn assert_unseen(holders: &Holders, shown: &str) {
    let shown = shown.to_lowercase();
    for share in [1, 4, 5].map(|index| holders.text(index)) {
        for group in share.split(' ').skip(1) {
            assert!(!shown.contains(group), "{group} of a share was shown: {shown}");
        }
    }
}

#[test]
fn shares_typed_on_a_terminal_are_not_shown_and_slips_are_corrected_at_once() {
    let holders = Holders::of(&frozen("recovery.key"));
    let mut terminal = verify(&holders);
    let mut all = terminal.shows("share 1 (not shown): ");
    terminal.types(&format!("{}q", holders.text(1)));
    let slip = terminal.shows("share 1 (not shown): ");
    assert!(slip.contains("type it again"), "{slip}");
    all += &slip;
    terminal.types(&holders.text(1));
    all += &terminal.shows("share 2 of 3 (not shown): ");
    terminal.types(&holders.text(1).to_uppercase());
    let slip = terminal.shows("share 2 of 3 (not shown): ");
    assert!(slip.contains("was given twice"), "{slip}");
    all += &slip;
    terminal.types(&holders.text(4).replace(' ', ""));
    all += &terminal.shows("share 3 of 3 (not shown): ");
    terminal.types(&holders.text(5));
    all += &terminal.shows("(compare it)");
    assert!(all.contains("the shares of set"), "{all}");
    assert_unseen(&holders, &all);
    drop(terminal.child.stdin.take());
    assert!(terminal.child.wait().unwrap().success());
}

#[test]
fn shares_pasted_all_at_once_are_not_shown_either() {
    let holders = Holders::of(&frozen("recovery.key"));
    let mut terminal = verify(&holders);
    let mut all = terminal.shows("share 1 (not shown): ");
    terminal.types(&[1, 4, 5].map(|index| holders.text(index)).join("\n"));
    all += &terminal.shows("(compare it)");
    assert!(all.contains("the shares of set"), "{all}");
    assert_unseen(&holders, &all);
    drop(terminal.child.stdin.take());
    assert!(terminal.child.wait().unwrap().success());
}
