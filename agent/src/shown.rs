//! Text that somebody else chose, as a person may see it: names of files, paths, what a fleet or a
//! file says of itself. It must not drive a terminal, add lines of its own, or turn the direction
//! of writing so that one name looks like another. Every error of this package shows paths so, and
//! so does the CLI.

use std::path::Path;

/// Whether a character would do something other than be seen.
const fn acts(c: char) -> bool {
    // Control characters; line and paragraph separators; marks, embeddings, overrides and isolates
    // of direction.
    matches!(
        c,
        '\u{0}'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

/// The text on one line, with whatever would act written as an escape.
#[must_use]
pub fn plain(text: &str) -> String {
    escaped(text, |c| acts(c).then(|| c.escape_default().to_string()))
}

/// The same for text of several lines: its line ends stay.
#[must_use]
pub fn plain_lines(text: &str) -> String {
    escaped(text, |c| (acts(c) && c != '\n').then(|| c.escape_default().to_string()))
}

/// JSON text with the same value, in which nothing acts. What JSON itself does not escape of it can
/// stand within strings only.
#[must_use]
pub fn plain_json(text: &str) -> String {
    escaped(text, |c| (acts(c) && c != '\n').then(|| format!("\\u{:04x}", u32::from(c))))
}

fn escaped(text: &str, escape: impl Fn(char) -> Option<String>) -> String {
    if !text.chars().any(acts) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match escape(c) {
            Some(escaped) => shown.push_str(&escaped),
            None => shown.push(c),
        }
    }
    shown
}

/// A path for people; what of it is not UTF-8 is replaced.
#[must_use]
pub fn path(path: impl AsRef<Path>) -> String {
    plain(&path.as_ref().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_is_shown_as_it_is() {
        for (text, one_line, lines, json) in [
            ("a b/ü/🗄", "a b/ü/🗄", "a b/ü/🗄", "a b/ü/🗄"),
            ("a\nb", "a\\nb", "a\nb", "a\nb"),
            ("a\r\tb", "a\\r\\tb", "a\\r\\tb", "a\\u000d\\u0009b"),
            ("\u{1b}[2J", "\\u{1b}[2J", "\\u{1b}[2J", "\\u001b[2J"),
            // The one-byte form of the same beginning, and delete: JSON leaves both as they are.
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}", "\\u{9b}2J\\u{7f}", "\\u009b2J\\u007f"),
            ("\u{0}\u{7}", "\\u{0}\\u{7}", "\\u{0}\\u{7}", "\\u0000\\u0007"),
            // "exe.txt" that is none.
            ("\u{202e}txt.exe", "\\u{202e}txt.exe", "\\u{202e}txt.exe", "\\u202etxt.exe"),
            ("a\u{2028}b", "a\\u{2028}b", "a\\u{2028}b", "a\\u2028b"),
        ] {
            assert_eq!(plain(text), one_line, "{text:?}");
            assert_eq!(plain(&plain(text)), one_line, "twice is as once: {text:?}");
            assert_eq!(plain_lines(text), lines, "{text:?}");
            assert_eq!(plain_json(text), json, "{text:?}");
        }
        use std::os::unix::ffi::OsStrExt;
        let name = Path::new(std::ffi::OsStr::from_bytes(b"a\xff\x1b[2J/\nb"));
        assert_eq!(path(name), "a\u{fffd}\\u{1b}[2J/\\nb");
    }
}
