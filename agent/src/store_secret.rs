//! The store secret: the cluster's KEK, in a place of its own, and what becomes of it when somebody
//! loses, cuts or changes it. A file today; a Kubernetes Secret is another place behind [`Place`].
//! What to do is decided in `decide`, without I/O.
//!
//! A new one is prepared beside the one in use, durable, before anything is sealed under it, and takes
//! its place once a key bundle that holds both is acknowledged. So at every moment what is in the
//! place opens the newest point.

mod decide;
mod file;

use std::sync::{Arc, PoisonError, RwLock};

use bundle::{Expect, Kek, Keyring, OpenError, OpenedWraps};
use proto_types::env::Random;

use decide::{Look, before_backup};
pub(crate) use decide::{Presence, Start, at_start};
pub(crate) use file::{FilePlace, KEK_FILE};

use crate::home::HomeError;

/// What stands in a place.
pub(crate) enum Found {
    /// Nothing.
    Missing,
    /// Too short, damaged, or no KEK.
    Unusable,
    /// A KEK.
    There(Kek),
}

impl Found {
    pub(crate) const fn presence(&self) -> Presence {
        match self {
            Self::Missing => Presence::Missing,
            Self::Unusable => Presence::Unusable,
            Self::There(_) => Presence::There,
        }
    }
}

/// Where a store secret is kept. Everything that changes it is durable when it returns.
pub(crate) trait Place: Send + Sync {
    /// What is there.
    fn current(&self) -> Result<Found, HomeError>;
    /// The one that was prepared and has not taken its place yet.
    fn prepared(&self) -> Result<Option<Kek>, HomeError>;
    /// Keeps one that is to follow.
    fn prepare(&self, kek: &Kek) -> Result<(), HomeError>;
    /// Forgets the prepared one.
    fn discard(&self) -> Result<(), HomeError>;
    /// The prepared one takes its place. What was there and was no KEK is kept aside: a person may
    /// still make something of it.
    fn promote(&self) -> Result<(), HomeError>;
}

/// What happened to a store secret; a person is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was not there: a new one was made.
    Created,
    /// It was no KEK: a new one was made.
    Replaced,
    /// Somebody put another one there.
    ByHand,
}

/// The KEKs that this process knows.
struct Keks {
    current: Arc<Kek>,
    next: Option<Arc<Kek>>,
    /// Those that this process used before; never written anywhere, newest last.
    former: Vec<Arc<Kek>>,
}

/// The store secret in use.
pub(crate) struct StoreSecret {
    place: Box<dyn Place>,
    keks: RwLock<Keks>,
}

impl StoreSecret {
    /// Takes what is in the place, or makes what has to be. `note` is told, and makes it durable,
    /// before anything is changed.
    pub(crate) fn open(
        place: Box<dyn Place>,
        used_before: bool,
        random: &dyn Random,
        note: impl FnOnce(Change) -> Result<(), HomeError>,
        missing: impl FnOnce() -> HomeError,
    ) -> Result<Self, HomeError> {
        let found = place.current()?;
        let next = place.prepared()?;
        let start = at_start(found.presence(), next.is_some(), used_before);
        let (current, next) = match (start, found) {
            (Start::Use, Found::There(kek)) => (kek, next),
            (Start::NeverMade, _) => return Err(missing()),
            (Start::UsePrepared, _) => {
                place.promote()?;
                (next.ok_or_else(missing)?, None)
            }
            (Start::Make(change), _) => {
                note(change)?;
                let kek = Kek::generate(random);
                place.prepare(&kek)?;
                place.promote()?;
                (kek, None)
            }
            (Start::Use, _) => return Err(missing()),
        };
        let keks =
            Keks { current: Arc::new(current), next: next.map(Arc::new), former: Vec::new() };
        Ok(Self { place, keks: RwLock::new(keks) })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Keks) -> T) -> T {
        work(&mut self.keks.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The KEK that stands in the place.
    pub(crate) fn current(&self) -> Arc<Kek> {
        self.with(|keks| keks.current.clone())
    }

    /// The KEK that the next key bundle is wrapped under.
    pub(crate) fn sealing(&self) -> Arc<Kek> {
        self.with(|keks| keks.next.clone().unwrap_or_else(|| keks.current.clone()))
    }

    /// Looks into the place again: what was lost meanwhile is made anew, what was changed is taken over.
    pub(crate) fn look(
        &self,
        random: &dyn Random,
        note: impl FnOnce(Change) -> Result<(), HomeError>,
    ) -> Result<Option<Change>, HomeError> {
        let found = self.place.current()?;
        let same = match &found {
            Found::There(kek) => self.current().is(kek),
            Found::Missing | Found::Unusable => false,
        };
        let (change, kek) = match (before_backup(found.presence(), same), found) {
            (Look::Keep, _) => return Ok(None),
            (Look::TakeOver(change), Found::There(kek)) => {
                note(change)?;
                // What a person put there is what is wanted, not what was prepared before.
                self.place.discard()?;
                (change, Arc::new(kek))
            }
            (Look::Make(change) | Look::TakeOver(change), _) => {
                note(change)?;
                let kek = Kek::generate(random);
                self.place.prepare(&kek)?;
                self.place.promote()?;
                (change, Arc::new(kek))
            }
        };
        self.with(|keks| {
            let before = std::mem::replace(&mut keks.current, kek);
            keks.former.push(before);
            keks.former.extend(keks.next.take());
        });
        Ok(Some(change))
    }

    /// Whether the place still holds what is in use: asked right before a commit (invariant B4).
    pub(crate) fn is_as_used(&self) -> Result<bool, HomeError> {
        match self.place.current()? {
            Found::There(kek) => Ok(self.current().is(&kek)),
            Found::Missing | Found::Unusable => Ok(false),
        }
    }

    /// Prepares another KEK, unless one is prepared already.
    pub(crate) fn prepare(&self, random: &dyn Random) -> Result<(), HomeError> {
        if self.with(|keks| keks.next.is_some()) {
            return Ok(());
        }
        let kek = Kek::generate(random);
        self.place.prepare(&kek)?;
        self.with(|keks| keks.next = Some(Arc::new(kek)));
        Ok(())
    }

    /// Lets the prepared KEK take its place, once an acknowledged key bundle is wrapped under it.
    pub(crate) fn settle(&self, acknowledged: &Keyring) -> Result<(), HomeError> {
        let Some(next) = self.with(|keks| keks.next.clone()) else { return Ok(()) };
        if acknowledged.generation_of(&next) != Some(acknowledged.kek_generation()) {
            return Ok(());
        }
        self.place.promote()?;
        self.with(|keks| {
            let before = std::mem::replace(&mut keks.current, next);
            keks.former.push(before);
            keks.next = None;
        });
        Ok(())
    }

    /// Opens wraps with whichever of the known KEKs they are under.
    pub(crate) fn open_wraps(
        &self,
        file: &[u8],
        expect: &Expect,
    ) -> Result<OpenedWraps, OpenError> {
        let known: Vec<Arc<Kek>> = self.with(|keks| {
            let newest = keks.next.iter().chain(std::iter::once(&keks.current));
            newest.chain(keks.former.iter().rev()).cloned().collect()
        });
        let mut last = None;
        for kek in known {
            match bundle::open_wraps_with_kek(file, &kek, expect) {
                Err(error @ OpenError::WrongKek(_)) => last = Some(error),
                result => return result,
            }
        }
        // The list is never empty.
        Err(last.unwrap_or(OpenError::WrongKek(proto_types::Generation::new(0))))
    }
}
