//! Glob patterns over paths that are bytes, not text: `*` stays within one directory, `**`
//! crosses them, and a pattern that matches a directory matches all beneath it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use proto_types::Code;

/// A set of patterns.
#[derive(Debug, Clone)]
pub struct Patterns {
    globs: Vec<String>,
    set: GlobSet,
}

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{glob:?} is not a pattern ({problem}): use *, **, ? and [a-z], and \\ before a literal one"
)]
pub struct PatternError {
    glob: String,
    problem: String,
}

impl PatternError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl Default for Patterns {
    fn default() -> Self {
        Self { globs: Vec::new(), set: GlobSet::empty() }
    }
}

impl Patterns {
    /// Reads patterns. A leading `/` or `./` is ignored: all paths are relative to a root. A
    /// pattern without `/` matches a name at any depth.
    ///
    /// # Errors
    /// When one is no pattern.
    pub fn new<S: AsRef<str>>(globs: &[S]) -> Result<Self, PatternError> {
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            let glob = glob.as_ref();
            let anchored = glob.trim_start_matches("./");
            let trimmed = anchored.trim_start_matches('/').trim_end_matches('/');
            if trimmed.is_empty() {
                let problem = "it is empty".to_owned();
                return Err(PatternError { glob: glob.to_owned(), problem });
            }
            let floats = !trimmed.contains('/') && !anchored.starts_with('/');
            let rooted = if floats { format!("**/{trimmed}") } else { trimmed.to_owned() };
            for pattern in [rooted.clone(), format!("{rooted}/**")] {
                let built = GlobBuilder::new(&pattern)
                    .literal_separator(true)
                    .backslash_escape(true)
                    .build()
                    .map_err(|error| PatternError {
                        glob: glob.to_owned(),
                        problem: error.kind().to_string(),
                    })?;
                set.add(built);
            }
        }
        Ok(Self {
            globs: globs.iter().map(|glob| glob.as_ref().to_owned()).collect(),
            set: set.build().map_err(|error| PatternError {
                glob: error.glob().unwrap_or_default().to_owned(),
                problem: error.kind().to_string(),
            })?,
        })
    }

    /// Whether any pattern matches this path, relative to the root.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        !self.globs.is_empty() && self.set.is_match(OsStr::from_bytes(path))
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.globs.is_empty()
    }

    /// The patterns as they were written.
    #[must_use]
    pub fn globs(&self) -> &[String] {
        &self.globs
    }
}

/// What is chosen: everything that `include` matches (all, if empty) and `exclude` does not.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// What to take; empty: all.
    pub include: Patterns,
    /// What to leave out.
    pub exclude: Patterns,
}

impl Selection {
    /// Whether the path is chosen.
    #[must_use]
    pub fn chooses(&self, path: &[u8]) -> bool {
        (self.include.is_empty() || self.include.matches(path)) && !self.exclude.matches(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_paths_as_people_expect() {
        for (glob, path, expected) in [
            ("*.key", &b"a.key"[..], true),
            ("*.key", b"deep/er/a.key", true),
            ("*.key", b"a.key.txt", false),
            ("/*.key", b"deep/a.key", false),
            ("./*.key", b"deep/a.key", true),
            ("secrets", b"secrets", true),
            ("secrets", b"x/secrets/a/b", true),
            ("secrets/*", b"secrets/a", true),
            ("secrets/*", b"secrets/a/b", true),
            ("secrets/*.yaml", b"secrets/a/b.yaml", false),
            ("secrets/**", b"secrets/a/b", true),
            ("secrets/**", b"x/secrets/a", false),
            ("a/**/b", b"a/x/y/b", true),
            ("a/", b"a/x", true),
            ("n\u{e4}me", "n\u{e4}me".as_bytes(), true),
            ("f*o", b"f\xff\xfeo", true),
            ("\\*", b"x", false),
            ("\\*", b"*", true),
        ] {
            let patterns = Patterns::new(&[glob]).unwrap();
            assert_eq!(patterns.matches(path), expected, "{glob} {:?}", OsStr::from_bytes(path));
        }
        assert!(!Patterns::default().matches(b"a"));
        for bad in ["", "/", "a[", "{a"] {
            assert_eq!(Patterns::new(&[bad]).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn patterns_exclude_wins_over_include() {
        let selection = Selection {
            include: Patterns::new(&["etc/**"]).unwrap(),
            exclude: Patterns::new(&["*.tmp"]).unwrap(),
        };
        assert!(selection.chooses(b"etc/a"));
        assert!(!selection.chooses(b"etc/a.tmp"));
        assert!(!selection.chooses(b"var/a"));
        assert!(Selection::default().chooses(b"anything"));
    }
}
