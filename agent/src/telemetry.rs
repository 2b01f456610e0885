//! What the agent tells its operator by itself: one function per fact, log line and counters
//! together. No paths and no ids in labels.

use proto::v1;

use crate::backup::BackupError;

const BACKUPS_TOTAL: &str = "strongroom_agent_backups_total";
const UPLOADED_BYTES_TOTAL: &str = "strongroom_agent_uploaded_bytes_total";

/// A backup ended.
pub(crate) fn backup_ended(result: &Result<v1::Point, BackupError>) {
    match result {
        Ok(point) => {
            metrics::counter!(BACKUPS_TOTAL, "result" => "committed").increment(1);
            metrics::counter!(UPLOADED_BYTES_TOTAL).increment(point.added_bytes);
            tracing::info!(
                sequence = point.sequence,
                items = point.items,
                added_bytes = point.added_bytes,
                unchanged = point.unchanged,
                "backup_committed"
            );
        }
        Err(error) => {
            metrics::counter!(BACKUPS_TOTAL, "result" => "failed").increment(1);
            tracing::error!(code = %error.code(), %error, "backup_failed");
        }
    }
}
