//! The safety file of a restore into a cluster (invariant P1): what is about to be overwritten,
//! sealed under the point's own keys. It is restored like a point: `restore --from FILE`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::plan::{KubePlan, PlannedObject};
use super::{KubeError, KubeOptions};
use crate::kubernetes::decide::ObjectAction;
use crate::kubernetes::{CLUSTER_ITEM, normal};
use crate::opened::OpenedPoint;
use crate::progress::Progress;
use crate::restore::safety_of_objects;
use crate::sources::Place;

pub(super) async fn make(
    point: &OpenedPoint,
    plan: &KubePlan,
    options: &KubeOptions,
    progress: &Arc<dyn Progress>,
) -> Result<PathBuf, KubeError> {
    let overwritten = |object: &&PlannedObject| object.action == ObjectAction::Overwrite;
    let mut contents: BTreeMap<_, _> = plan
        .objects
        .iter()
        .filter(overwritten)
        .filter_map(|object| {
            let live = object.live.as_ref()?;
            let secret = object.key || object.name.kind.is("", "Secret");
            let place = if secret { Place::Secret } else { Place::Config };
            Some((object.name.path(), (place, live.bytes.clone())))
        })
        .collect();
    // Of which cluster they are, so that they are restored into no other by mistake.
    let uid = plan.api.cluster_uid().await?;
    let about = normal::encode(&json!({ "kubeSystemUid": uid }));
    contents.insert(CLUSTER_ITEM.to_vec(), (Place::Config, about));
    let info = point.info();
    let millis = point.env().clock.now().as_millis();
    let file = options.safety_directory.join(format!(
        "kubernetes.before-{}@{}-{millis}.strongroom",
        info.cluster_name, info.sequence
    ));
    safety_of_objects(point, contents, file.clone(), progress).await?;
    Ok(file)
}
