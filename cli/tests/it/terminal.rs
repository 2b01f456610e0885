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

#[test]
fn shares_typed_on_a_terminal_are_not_shown_and_slips_are_corrected_at_once() {
    let holders = Holders::of(&frozen("recovery.key"));
    let verify =
        format!("'{}' key verify --file point.srx --shares", env!("CARGO_BIN_EXE_strongroom"));
    let mut terminal = Terminal::start(
        Command::new("script")
            .args(["-qec", &verify, "/dev/null"])
            .current_dir(holders.directory())
            .env_remove("STRONGROOM_OUTPUT"),
    );
    let damaged = holders.text(1).replacen('q', "p", 1).replacen(" z", " 2", 1);
    let mut all = terminal.shows("share 1 (not shown): ");
    terminal.types(&format!("{damaged}q"));
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
    let all = all.to_lowercase();
    for share in [1, 4, 5].map(|index| holders.text(index)) {
        for group in share.split(' ').skip(1) {
            assert!(!all.contains(group), "{group} of a share was shown: {all}");
        }
    }
    drop(terminal.child.stdin.take());
    assert!(terminal.child.wait().unwrap().success());
}
