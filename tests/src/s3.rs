//! A real S3 server on loopback (`s3s-fs`, its objects are files of a directory), on a thread of
//! its own, with a switch for what object stores do on bad days.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::ports::Port;

const BUCKET: &str = "vault";
const ACCESS: &str = "strongroom-test";
const SECRET: &str = "a-secret-that-nothing-may-print";

/// What the server does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Answers them.
    Good,
    /// Cuts every connection.
    Down,
    /// Takes connections and never answers.
    Stuck,
}

/// The server; ends when it is dropped.
pub struct S3 {
    port: Port,
    root: PathBuf,
    credentials: PathBuf,
    mood: watch::Sender<Mood>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl S3 {
    /// Starts a server whose objects are in this directory.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn start(directory: &Path) -> Self {
        let root = directory.join("s3");
        std::fs::create_dir_all(root.join(BUCKET)).expect("a directory can be made");
        let credentials = directory.join("credentials");
        std::fs::write(
            &credentials,
            format!("AWS_ACCESS_KEY_ID={ACCESS}\nAWS_SECRET_ACCESS_KEY={SECRET}\n"),
        )
        .expect("a file can be made");
        let port = Port::reserve();
        let (mood, moods) = watch::channel(Mood::Good);
        let (end, ended) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = {
            let (address, root) = (port.address(), root.clone());
            std::thread::spawn(move || serve(&address, root, moods, ended, &ready))
        };
        is_ready.recv().expect("the server listens");
        Self { port, root, credentials, mood, end: Some(end), thread: Some(thread) }
    }

    /// The settings of a config section, without its header; `key` is `url` or `to`.
    #[must_use]
    pub fn config(&self, key: &str, prefix: &str) -> String {
        format!(
            "{key} = \"s3://{BUCKET}/{prefix}\"\nendpoint = \"http://{}\"\nregion = \"local\"\n\
             allow_http = true\ncredentials = \"{}\"\n",
            self.port.address(),
            self.credentials.display()
        )
    }

    /// `http://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// URL of a prefix.
    #[must_use]
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// The file with the credentials.
    #[must_use]
    pub fn credentials(&self) -> &Path {
        &self.credentials
    }

    /// What nothing may print.
    #[must_use]
    pub const fn secret() -> &'static str {
        SECRET
    }

    /// From now on; open connections end.
    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Makes an object, as somebody else would.
    ///
    /// # Panics
    /// When its file cannot be made.
    pub fn put(&self, name: &str, content: &[u8]) {
        let path = self.root.join(BUCKET).join(name);
        let directory = path.parent().expect("below the bucket");
        std::fs::create_dir_all(directory).expect("a directory can be made");
        std::fs::write(path, content).expect("a file can be made");
    }

    /// The files of all objects below a prefix, with their names below it.
    #[must_use]
    pub fn objects(&self, prefix: &str) -> Vec<(String, PathBuf)> {
        let root = self.root.join(BUCKET).join(prefix);
        let mut objects: Vec<_> = walkdir::WalkDir::new(&root)
            .into_iter()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| {
                let path = entry.into_path();
                let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
                (name, path)
            })
            .collect();
        objects.sort();
        objects
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    address: &str,
    root: PathBuf,
    mood: watch::Receiver<Mood>,
    ended: oneshot::Receiver<()>,
    ready: &std::sync::mpsc::Sender<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async move {
        let files = FileSystem::new(root).expect("the directory is there");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind(address).await.expect("the port is free");
        ready.send(()).expect("the test waits");
        let accept = async {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (service, mut mood) = (service.clone(), mood.clone());
                let now = *mood.borrow_and_update();
                tokio::spawn(async move {
                    let answer = async {
                        match now {
                            Mood::Good => {
                                let http = Builder::new(TokioExecutor::new());
                                // A connection that breaks is the other end's business.
                                let _ = http.serve_connection(TokioIo::new(socket), service).await;
                            }
                            Mood::Down => drop(socket),
                            Mood::Stuck => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = answer => {}
                        _ = mood.changed() => {}
                    }
                });
            }
        };
        tokio::select! {
            () = accept => {}
            _ = ended => {}
        }
    });
}
