//! A bundle store that misbehaves on request: errors, flipped bits, lost bundles. Product code
//! runs over it in tests, to show that each is noticed; without faults it is its inner store.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto_types::BundleId;

use super::{BundleError, BundleStore, HeldBundle, Space};

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `begin`.
    Begin,
    /// `write`.
    Write,
    /// `finish`.
    Finish,
    /// `read`, `read_range`, `verify`, and so `header`.
    Read,
    /// `delete`.
    Delete,
    /// `list`.
    List,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The next call of that kind fails with an I/O error.
    Error(Operation),
    /// The next call of that kind fails for lack of space.
    NoSpace(Operation),
    /// The bit at this offset reads flipped from now on, for as long as the bundle is held.
    FlipBit {
        /// The bundle.
        id: BundleId,
        /// Bytes from its start.
        offset: u64,
    },
    /// The next write reports success and never reaches the disk: zeros are there in its place.
    LoseWrite,
    /// The bundle is gone, although it was acknowledged.
    LoseBundle(BundleId),
}

/// Wraps a store and breaks what it is told to.
#[derive(Debug)]
pub struct FaultyBundleStore {
    inner: Arc<dyn BundleStore>,
    faults: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    once: Vec<Fault>,
    flipped: HashSet<(BundleId, u64)>,
    lost: HashSet<BundleId>,
}

impl FaultyBundleStore {
    /// Wraps a store; it works until told otherwise.
    #[must_use]
    pub fn new(inner: Arc<dyn BundleStore>) -> Self {
        Self { inner, faults: Mutex::default() }
    }

    /// Has something go wrong.
    pub fn inject(&self, fault: Fault) {
        let mut faults = self.lock();
        match fault {
            Fault::FlipBit { id, offset } => drop(faults.flipped.insert((id, offset))),
            Fault::LoseBundle(id) => drop(faults.lost.insert(id)),
            Fault::Error(_) | Fault::NoSpace(_) | Fault::LoseWrite => faults.once.push(fault),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn takes(&self, fault: Fault) -> bool {
        let mut faults = self.lock();
        let found = faults.once.iter().position(|f| *f == fault);
        found.map(|at| faults.once.remove(at)).is_some()
    }

    fn step(&self, operation: Operation, id: &BundleId) -> Result<(), BundleError> {
        if self.takes(Fault::Error(operation)) {
            return Err(BundleError::Io {
                action: "use",
                path: PathBuf::from("faulty"),
                source: io::Error::other("simulated fault"),
            });
        }
        if self.takes(Fault::NoSpace(operation)) {
            let Space { reserve_bytes, .. } = self.inner.space()?;
            return Err(BundleError::NoSpace { id: *id, free_bytes: 0, reserve_bytes });
        }
        Ok(())
    }

    fn is_lost(&self, id: &BundleId) -> bool {
        self.lock().lost.contains(id)
    }

    fn require(&self, id: &BundleId) -> Result<(), BundleError> {
        if self.is_lost(id) { Err(BundleError::NotFound { id: *id }) } else { Ok(()) }
    }

    /// A new copy has neither the old one's flipped bits nor its fate.
    fn heal(&self, id: &BundleId) {
        let mut faults = self.lock();
        faults.lost.remove(id);
        faults.flipped.retain(|(flipped, _)| flipped != id);
    }

    fn flip(&self, id: &BundleId, from: u64, content: &mut [u8]) {
        for (flipped, offset) in &self.lock().flipped {
            if flipped == id
                && let Some(at) = offset.checked_sub(from)
                && let Some(byte) = usize::try_from(at).ok().and_then(|at| content.get_mut(at))
            {
                *byte ^= 1;
            }
        }
    }
}

impl BundleStore for FaultyBundleStore {
    fn begin(&self, id: &BundleId, expected_bytes: u64) -> Result<u64, BundleError> {
        self.step(Operation::Begin, id)?;
        if self.is_lost(id) {
            // The inner store still has it; a lost bundle can be uploaded anew.
            self.inner.delete(id)?;
        }
        self.inner.begin(id, expected_bytes)
    }

    fn write(&self, id: &BundleId, offset: u64, bytes: &[u8]) -> Result<(), BundleError> {
        self.step(Operation::Write, id)?;
        if self.takes(Fault::LoseWrite) {
            return self.inner.write(id, offset, &vec![0; bytes.len()]);
        }
        self.inner.write(id, offset, bytes)
    }

    fn finish(&self, id: &BundleId, expected_bytes: u64) -> Result<(), BundleError> {
        self.step(Operation::Finish, id)?;
        if self.is_lost(id) && self.inner.contains(id)? {
            return Err(BundleError::NotBegun { id: *id });
        }
        self.inner.finish(id, expected_bytes)?;
        self.heal(id);
        Ok(())
    }

    fn put(&self, id: &BundleId, bytes: &[u8]) -> Result<(), BundleError> {
        self.step(Operation::Write, id)?;
        self.heal(id);
        self.inner.put(id, bytes)
    }

    fn sync(&self) -> Result<(), BundleError> {
        self.step(Operation::Finish, &BundleId::ZERO)?;
        self.inner.sync()
    }

    fn abandon(&self, id: &BundleId) -> Result<(), BundleError> {
        self.inner.abandon(id)
    }

    fn partials(&self) -> Result<Vec<HeldBundle>, BundleError> {
        self.inner.partials()
    }

    fn size(&self, id: &BundleId) -> Result<Option<u64>, BundleError> {
        if self.is_lost(id) { Ok(None) } else { self.inner.size(id) }
    }

    fn read(&self, id: &BundleId) -> Result<Vec<u8>, BundleError> {
        self.step(Operation::Read, id)?;
        self.require(id)?;
        let mut content = self.inner.read(id)?;
        self.flip(id, 0, &mut content);
        let found = BundleId::of(&content);
        if found == *id { Ok(content) } else { Err(BundleError::Damaged { id: *id, found }) }
    }

    fn read_range(
        &self,
        id: &BundleId,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Vec<u8>, BundleError> {
        self.step(Operation::Read, id)?;
        self.require(id)?;
        let mut content = self.inner.read_range(id, offset, bytes_max)?;
        self.flip(id, offset, &mut content);
        Ok(content)
    }

    fn verify(&self, id: &BundleId) -> Result<(), BundleError> {
        self.step(Operation::Read, id)?;
        self.require(id)?;
        let mut content = self.inner.read(id)?;
        self.flip(id, 0, &mut content);
        let found = BundleId::of(&content);
        if found == *id { Ok(()) } else { Err(BundleError::Damaged { id: *id, found }) }
    }

    fn delete(&self, id: &BundleId) -> Result<(), BundleError> {
        self.step(Operation::Delete, id)?;
        self.inner.delete(id)?;
        self.heal(id);
        Ok(())
    }

    fn list(&self) -> Result<Vec<HeldBundle>, BundleError> {
        self.step(Operation::List, &BundleId::ZERO)?;
        let mut bundles = self.inner.list()?;
        bundles.retain(|bundle| !self.is_lost(&bundle.id));
        Ok(bundles)
    }

    fn quarantine(&self, id: &BundleId) -> Result<(), BundleError> {
        self.require(id)?;
        self.inner.quarantine(id)?;
        self.heal(id);
        Ok(())
    }

    fn quarantined(&self) -> Result<Vec<HeldBundle>, BundleError> {
        self.inner.quarantined()
    }

    fn space(&self) -> Result<Space, BundleError> {
        self.inner.space()
    }
}
