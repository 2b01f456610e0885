//! Objects that are at hand already, as a source: what a safety file is made of.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use super::CLUSTER_ITEM;
use super::source::stat_of;
use crate::sources::{
    Attribute, Content, Entry, EntryKind, Listing, Place, ReadError, Source, SourceError,
};

type Contents = BTreeMap<Vec<u8>, (Place, Zeroizing<Vec<u8>>)>;

/// Objects in memory, by path.
pub(crate) struct HeldSource {
    name: String,
    contents: Mutex<Contents>,
}

impl HeldSource {
    pub(crate) fn new(name: &str, contents: Contents) -> Self {
        Self { name: name.to_owned(), contents: Mutex::new(contents) }
    }

    /// All of them, by path.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |(path, (place, bytes)): (&Vec<u8>, &(Place, Zeroizing<Vec<u8>>))| Entry {
            path: path.clone(),
            kind: if path == CLUSTER_ITEM { EntryKind::File } else { EntryKind::Object },
            stat: stat_of(bytes),
            place: *place,
        };
        contents.iter().map(entry).collect()
    }
}

impl Source for HeldSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "kubernetes"
    }

    fn list(&self) -> Result<Listing, SourceError> {
        Ok(Listing { entries: self.entries(), troubles: Vec::new() })
    }

    fn open(&self, entry: &Entry) -> Result<Content, ReadError> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, bytes) = contents.remove(&entry.path).ok_or(ReadError::Vanished)?;
        Ok(Content::held(stat_of(&bytes), bytes))
    }

    fn attributes(&self, _entry: &Entry) -> Result<Vec<Attribute>, ReadError> {
        Ok(Vec::new())
    }

    fn link_target(&self, _entry: &Entry) -> Result<Vec<u8>, ReadError> {
        Err(ReadError::Vanished)
    }
}
