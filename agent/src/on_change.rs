//! Backups of what changed in followed clusters, seconds after it did. What fails is tried again,
//! for as long as the agent runs.

use std::convert::Infallible;
use std::time::Duration;

use futures::future::select_all;
use proto::env::Env;
use proto_types::Code;
use tokio_util::sync::CancellationToken;

use crate::backup::{BackupError, Mirrors};
use crate::config::{SourceConfig, SourceKind};
use crate::kubernetes;
use crate::local::Local;

/// After a backup that failed.
const PAUSE: Duration = Duration::from_secs(3);

/// Begins to follow every cluster that has a mirror.
pub(crate) fn follow_all(
    sources: &[SourceConfig],
    mirrors: &Mirrors,
    env: &Env,
    stop: &CancellationToken,
) {
    for source in sources {
        let SourceKind::Kubernetes(config) = &source.kind else { continue };
        let Some(mirror) = mirrors.get(&source.name) else { continue };
        let (name, config, mirror) = (source.name.clone(), config.clone(), mirror.clone());
        let task = kubernetes::follow(name, config, mirror, env.clone(), stop.clone());
        env.spawn.task("follow a cluster", Box::pin(task));
    }
}

/// Backs up changes as they are due. Returns only what the agent may not go on after.
pub(crate) async fn keep(service: &Local, mirrors: &Mirrors) -> BackupError {
    match keep_on(service, mirrors).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn keep_on(service: &Local, mirrors: &Mirrors) -> Result<Infallible, BackupError> {
    loop {
        let due = mirrors.values().filter_map(|mirror| mirror.wait()).min();
        match due {
            Some(0) => back_up(service, mirrors).await?,
            Some(wait) => {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(wait)) => {}
                    () = rung(mirrors) => {}
                }
            }
            None => rung(mirrors).await,
        }
    }
}

/// Waits until any mirror changed.
async fn rung(mirrors: &Mirrors) {
    if mirrors.is_empty() {
        return std::future::pending().await;
    }
    select_all(mirrors.values().map(|mirror| Box::pin(mirror.rung.notified()))).await;
}

async fn back_up(service: &Local, mirrors: &Mirrors) -> Result<(), BackupError> {
    match service.back_up_changes().await {
        Ok(()) => {
            mirrors.values().for_each(|mirror| mirror.committed());
            Ok(())
        }
        // A newer agent of the cluster is active.
        Err(error) if error.code() == Code::StaleEpoch => Err(error),
        // Told by whoever made the backup.
        Err(_) => {
            mirrors.values().for_each(|mirror| mirror.again());
            tokio::time::sleep(PAUSE).await;
            Ok(())
        }
    }
}
