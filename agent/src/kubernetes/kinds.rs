//! Which kinds a server serves, and where: asked once per backup or restore.

use std::collections::BTreeMap;

use ::kube::api::{GetParams, Request};
use ::kube::discovery::{ApiResource, Discovery, Scope};

use serde_json::Value;

use super::api::{Api, ApiFailure, Asked, chain};
use super::name::{KindName, ObjectName};

/// A kind that a server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Group and kind.
    pub name: KindName,
    /// The version that the server prefers.
    pub version: String,
    /// As it stands in paths of the API, for example `configmaps`.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What the API server does with them: `list`, `watch`, …
    pub verbs: Vec<String>,
}

impl Kind {
    /// `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.name.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.name.group, self.version)
        }
    }

    /// The resource with its group, as RBAC has it: `deployments.apps`.
    #[must_use]
    pub fn resource(&self) -> String {
        if self.name.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.name.group)
        }
    }

    /// The path of the collection in one namespace, or everywhere.
    pub(crate) fn url(&self, namespace: Option<&str>) -> String {
        let resource = ApiResource {
            group: self.name.group.clone(),
            version: self.version.clone(),
            api_version: self.api_version(),
            kind: self.name.kind.clone(),
            plural: self.plural.clone(),
        };
        let root = if resource.group.is_empty() { "/api" } else { "/apis" };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => {
                format!("{root}/{}/namespaces/{namespace}/{}", resource.api_version, self.plural)
            }
            None => format!("{root}/{}/{}", resource.api_version, self.plural),
        }
    }

    /// What is asked, for the words of a refusal.
    pub(crate) fn asked(&self, verb: &'static str, namespace: Option<&str>) -> Asked {
        let resource = match namespace {
            Some(namespace) => format!("{} in namespace {namespace}", self.resource()),
            None => self.resource(),
        };
        Asked { verb, resource }
    }

    /// One of its objects, as the server has it.
    pub(crate) async fn read(&self, api: &Api, name: &ObjectName) -> Result<Value, ApiFailure> {
        let url = self.url(name.namespace.as_deref());
        let asked = self.asked("get", name.namespace.as_deref());
        let get = || Request::new(url.clone()).get(&name.name, &GetParams::default());
        api.ask(&asked, get).await
    }

    /// Whether the server can do this with its objects.
    #[must_use]
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// The name of one of its objects.
    #[must_use]
    pub fn object(&self, namespace: Option<&str>, name: &str) -> ObjectName {
        ObjectName {
            kind: self.name.clone(),
            namespace: namespace.filter(|_| self.namespaced).map(str::to_owned),
            name: name.to_owned(),
        }
    }
}

/// The kinds of a server.
#[derive(Debug, Clone, Default)]
pub struct Kinds {
    kinds: BTreeMap<KindName, Kind>,
    /// Every version that is served, by group and kind.
    served: BTreeMap<KindName, Vec<Kind>>,
}

impl Kinds {
    /// Asks a server what it serves.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn discover(api: &Api) -> Result<Self, ApiFailure> {
        // One question first, with its retries: the library's discovery has none.
        let asked = Asked { verb: "get", resource: "the path /api".to_owned() };
        let get = || {
            let request = http::Request::get("/api").body(Vec::new());
            request.map_err(::kube::core::request::Error::BuildRequest)
        };
        api.ask_text(&asked, get).await?;
        let client = api.client();
        let found = match Discovery::new(client.clone()).run_aggregated().await {
            Ok(found) => found,
            // Servers before 1.26 have no aggregated discovery.
            Err(_) => Discovery::new(client.clone())
                .run()
                .await
                .map_err(|error| ApiFailure::Failed(chain(&error)))?,
        };
        let mut kinds = Self::default();
        for group in found.groups() {
            for version in group.versions() {
                for (resource, abilities) in group.versioned_resources(version) {
                    kinds.add(Kind {
                        name: KindName::new(&resource.group, &resource.kind),
                        version: resource.version,
                        plural: resource.plural,
                        namespaced: abilities.scope == Scope::Namespaced,
                        verbs: abilities.operations,
                    });
                }
            }
            for (resource, _) in group.recommended_resources() {
                kinds.prefer(&KindName::new(&resource.group, &resource.kind), &resource.version);
            }
        }
        Ok(kinds)
    }

    fn add(&mut self, kind: Kind) {
        self.kinds.entry(kind.name.clone()).or_insert_with(|| kind.clone());
        self.served.entry(kind.name.clone()).or_default().push(kind);
    }

    fn prefer(&mut self, name: &KindName, version: &str) {
        let served = self.served.get(name).into_iter().flatten();
        if let Some(kind) = served.into_iter().find(|kind| kind.version == version) {
            self.kinds.insert(name.clone(), kind.clone());
        }
    }

    /// A kind in the version that the server prefers.
    #[must_use]
    pub fn get(&self, name: &KindName) -> Option<&Kind> {
        self.kinds.get(name)
    }

    /// A kind in one version.
    #[must_use]
    pub fn in_version(&self, name: &KindName, api_version: &str) -> Option<&Kind> {
        self.served.get(name)?.iter().find(|kind| kind.api_version() == api_version)
    }

    /// All kinds that can be listed, each in the version that the server prefers, by name.
    pub fn listable(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.values().filter(|kind| kind.can("list") && kind.can("get"))
    }
}
