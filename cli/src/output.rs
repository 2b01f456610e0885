//! Where verbs print: tables or JSON on standard output, progress bars on standard error and only
//! on a terminal. A reader that goes away ends the verb quietly.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;

use agent::shown::{plain, plain_json, plain_lines};
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::args::Format;
use crate::error::{CliError, Result};
use proto_types::Code;

/// More than the largest secret answer, 64 shares, so that it never grows and leaves a copy behind.
const SECRET_BYTES_MAX: usize = 32 * 1024;

/// Standard output and error as a verb sees them.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    format: Format,
    progress: bool,
}

impl Screen {
    /// The process's own, in this form. Progress bars only for people at a terminal.
    #[must_use]
    pub fn of_process(format: Format) -> Self {
        Self { format, progress: format == Format::Table && std::io::stderr().is_terminal() }
    }

    /// The form asked for.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Whether programs read this.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints text. Whatever in it would drive a terminal is escaped here at the latest; what comes
    /// from elsewhere and could add lines has to be made [`plain`] before it becomes part of it.
    ///
    /// # Errors
    /// When standard output cannot be written; quiet when its reader has gone.
    pub fn text(&self, text: &str) -> Result<()> {
        let text = plain_lines(text);
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
            if error.kind() == ErrorKind::BrokenPipe {
                CliError::reader_gone()
            } else {
                CliError::new(Code::LocalIo, format!("cannot write to standard output: {error}"))
            }
        })
    }

    /// Prints one line.
    ///
    /// # Errors
    /// As [`Screen::text`].
    pub fn line(&self, line: &str) -> Result<()> {
        self.text(&format!("{line}\n"))
    }

    /// Prints a value for programs, on one line.
    ///
    /// # Errors
    /// As [`Screen::text`].
    pub fn json(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|error| {
            CliError::new(Code::Internal, format!("the answer cannot be put as JSON: {error}"))
        })?;
        self.line(&plain_json(&text))
    }

    /// Prints `value` for programs, or what `people` writes for people.
    ///
    /// # Errors
    /// As [`Screen::text`].
    pub fn show<T: Serialize>(&self, value: &T, people: impl FnOnce(&T) -> String) -> Result<()> {
        match self.format {
            Format::Json => self.json(value),
            Format::Table => self.text(&people(value)),
        }
    }

    /// As [`Screen::show`], of a value that holds secrets: leaves no copy of it in memory, nor in
    /// the buffer of standard output. What would drive a terminal has to be escaped by the caller.
    ///
    /// # Errors
    /// When standard output cannot be written, or its reader has gone: a secret that is shown only
    /// once was then not shown.
    pub fn show_secret<T: Serialize>(
        &self,
        value: &T,
        people: impl FnOnce(&T) -> Zeroizing<String>,
    ) -> Result<()> {
        let failed = |error: std::io::Error| {
            CliError::new(Code::LocalIo, format!("cannot write to standard output: {error}"))
        };
        let mut json = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX));
        let text;
        let bytes = match self.format {
            Format::Json => {
                serde_json::to_writer(&mut *json, value)
                    .map_err(|error| failed(std::io::Error::from(error)))?;
                json.push(b'\n');
                &json[..]
            }
            Format::Table => {
                text = people(value);
                text.as_bytes()
            }
        };
        let out = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
        File::from(out).write_all(bytes).map_err(failed)
    }

    /// Writes a line for people to standard error; nothing for programs, whose standard error
    /// holds errors only.
    pub fn note(&self, line: &str) {
        if self.format == Format::Table {
            // A note nobody can read is not worth failing for.
            let _ = writeln!(std::io::stderr().lock(), "{}", plain(line));
        }
    }

    /// A bar that counts bytes, hidden unless a person watches.
    #[must_use]
    pub fn byte_bar(&self) -> ProgressBar {
        self.bar("{spinner} {msg:<12} {bytes:>12} of {total_bytes:<12} {binary_bytes_per_sec} {wide_bar}")
    }

    /// A bar that counts things, hidden unless a person watches.
    #[must_use]
    pub fn count_bar(&self) -> ProgressBar {
        self.bar("{spinner} {msg:<12} {pos:>8} of {len:<8} {wide_bar}")
    }

    fn bar(&self, template: &str) -> ProgressBar {
        if !self.progress {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(0);
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar
    }
}

/// A table with a head and without lines, as `kubectl` prints them.
pub struct Rows {
    table: Table,
}

impl Rows {
    /// An empty table with these column names.
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        // Never wrapped: people grep and copy these lines.
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(head.iter().copied());
        Self { table }
    }

    /// Adds a row. A cell is one line, whatever it was made of.
    pub fn push<S: ToString>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.table.add_row(cells.into_iter().map(|cell| plain(&cell.to_string())));
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The table's text, each line trimmed, with a newline at its end.
    #[must_use]
    pub fn render(&self) -> String {
        self.table
            .lines()
            .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end()))
            .collect()
    }
}

/// "1 item", "2 items": a number with its noun.
#[must_use]
pub fn count(number: impl Into<u64>, noun: &str) -> String {
    match number.into() {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_their_nouns() {
        assert_eq!(count(0_u64, "item"), "0 items");
        assert_eq!(count(1_u64, "item"), "1 item");
        assert_eq!(count(2_u32, "finding"), "2 findings");
    }

    #[test]
    fn a_cell_neither_adds_lines_nor_drives_the_terminal() {
        let mut rows = Rows::new(&["NAME", "POINTS"]);
        rows.push(["a\u{1b}[2J\nno findings", "1"]);
        assert_eq!(
            rows.render(),
            "NAME                     POINTS\na\\u{1b}[2J\\nno findings  1\n"
        );
    }

    #[test]
    fn tables_are_plain_lines() {
        let mut rows = Rows::new(&["NAME", "POINTS"]);
        assert!(rows.is_empty());
        rows.push(["harbour", "12"]);
        rows.push(["a-much-longer-name", "3"]);
        assert_eq!(
            rows.render(),
            "NAME                POINTS\nharbour             12\na-much-longer-name  3\n"
        );
    }
}
