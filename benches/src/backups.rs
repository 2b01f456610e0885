//! What the groups that back up share: both sides in the same run, one after the other, the one
//! that begins changing from run to run, each from the same state of the machine.

use std::path::Path;

use anyhow::Result;

use crate::figure::{Better, Figure, Report, Runs};
use crate::files;
use crate::restic::{self, Restic};

/// Does ours and the peer's, the latter where there is one; the order changes with each run.
pub(crate) fn alternate(
    run: usize,
    source: &Path,
    mut ours: impl FnMut() -> Result<()>,
    peer: Option<impl FnMut() -> Result<()>>,
) -> Result<()> {
    let Some(mut peer) = peer else {
        files::settle(source)?;
        return ours();
    };
    let sides: [&mut dyn FnMut() -> Result<()>; 2] =
        if run.is_multiple_of(2) { [&mut ours, &mut peer] } else { [&mut peer, &mut ours] };
    for side in sides {
        files::settle(source)?;
        side()?;
    }
    Ok(())
}

/// A figure beside restic.
pub(crate) const fn beside_restic(
    name: &'static str,
    unit: &'static str,
    target: Option<f64>,
    note: &'static str,
) -> Figure {
    Figure { name, unit, better: Better::Less, target, peer_name: "restic", how: restic::HOW, note }
}

/// Says which restic it is, or that there is none.
pub(crate) fn find_restic() -> Result<Option<Restic>> {
    let restic = Restic::find()?;
    match &restic {
        Some(restic) => crate::progress::say(&format!("beside {}", restic.version)),
        None => crate::progress::say(&format!("restic is {}", restic::HOW)),
    }
    Ok(restic)
}

/// Reports several figures.
pub(crate) fn report_all(report: &mut Report, figures: &[(Figure, &Runs)]) -> Result<()> {
    figures.iter().try_for_each(|(figure, runs)| report.add(*figure, runs))
}

/// Bytes as a figure's value.
#[allow(clippy::cast_precision_loss)] // far below the 2^53 up to which a float counts every byte
pub(crate) const fn bytes(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn backups_alternate_who_begins() {
        let source = tempfile::tempdir().unwrap();
        let order = RefCell::new(String::new());
        for run in 0..3 {
            let step = |name| {
                let order = &order;
                move || {
                    order.borrow_mut().push(name);
                    Ok(())
                }
            };
            alternate(run, source.path(), step('o'), Some(step('p'))).unwrap();
        }
        assert_eq!(order.into_inner(), "oppoop");
    }
}
