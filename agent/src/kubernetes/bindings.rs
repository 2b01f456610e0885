//! AppBindings: how applications of a cluster say where they are and which Secret opens them. Found
//! here, they are offered as sources.

use serde::Serialize;
use serde_json::Value;

use super::api::{Api, ApiFailure};
use super::kinds::Kinds;
use super::list::{Listed, Lister, Which};
use super::name::KindName;

/// An application that a cluster offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppBinding {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What it says of its type, for example `kubevault.com/vault`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it says of its version.
    pub version: String,
    /// The object that it is of: `group/kind/namespace/name`.
    pub app: String,
    /// Where it answers.
    pub address: String,
    /// The Secret that opens it.
    pub secret: String,
    /// Which kind of source would take it: `vault`, `consul`, or nothing this program knows.
    pub source: Option<&'static str>,
}

/// All AppBindings of a cluster; none where it does not know them.
///
/// # Errors
/// When they cannot be read.
pub async fn app_bindings(api: &Api) -> Result<Vec<AppBinding>, ApiFailure> {
    let kinds = Kinds::discover(api).await?;
    let name = KindName::new("appcatalog.appscode.com", "AppBinding");
    let Some(kind) = kinds.get(&name) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    Lister::new(api, kind, Which::default())
        .all(|listed| match listed {
            Listed::Begin => found.clear(),
            Listed::Object(object) => found.push(describe(&object)),
        })
        .await?;
    found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(found)
}

fn describe(object: &Value) -> AppBinding {
    let text =
        |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let app = ["apiGroup", "kind", "namespace", "name"].map(|f| text(&format!("/spec/appRef/{f}")));
    let service = |field: &str| text(&format!("/spec/clientConfig/service/{field}"));
    let url = text("/spec/clientConfig/url");
    let address = if url.is_empty() && !service("name").is_empty() {
        let port = object.pointer("/spec/clientConfig/service/port").and_then(Value::as_u64);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let scheme = service("scheme");
        let between = if scheme.is_empty() { "" } else { "://" };
        let namespace = match service("namespace") {
            named if named.is_empty() => text("/metadata/namespace"),
            named => named,
        };
        format!("{scheme}{between}{}.{namespace}.svc{port}", service("name"))
    } else {
        url
    };
    let kind = text("/spec/type");
    AppBinding {
        source: source(&format!("{kind} {}", app.join("/"))),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        kind,
        version: text("/spec/version"),
        app: app.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("/"),
        address,
        secret: text("/spec/secret/name"),
    }
}

fn source(words: &str) -> Option<&'static str> {
    let words = words.to_ascii_lowercase();
    ["vault", "consul"].into_iter().find(|known| words.contains(known))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kubernetes_app_bindings_are_described() {
        let object = json!({
            "metadata": {"name": "vault", "namespace": "keys"},
            "spec": {
                "type": "kubevault.com/vault", "version": "1.18",
                "appRef": {"apiGroup": "kubevault.com", "kind": "VaultServer", "name": "vault",
                    "namespace": "keys"},
                "clientConfig": {"service": {"name": "vault", "scheme": "https", "port": 8200}},
                "secret": {"name": "vault-token"},
            },
        });
        assert_eq!(
            describe(&object),
            AppBinding {
                namespace: "keys".to_owned(),
                name: "vault".to_owned(),
                kind: "kubevault.com/vault".to_owned(),
                version: "1.18".to_owned(),
                app: "kubevault.com/VaultServer/keys/vault".to_owned(),
                address: "https://vault.keys.svc:8200".to_owned(),
                secret: "vault-token".to_owned(),
                source: Some("vault"),
            }
        );
        let bare = describe(&json!({"metadata": {"name": "x", "namespace": "n"},
            "spec": {"clientConfig": {"url": "postgres://db:5432"}}}));
        assert_eq!((bare.address.as_str(), bare.source), ("postgres://db:5432", None));
    }
}
