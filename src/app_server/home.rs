//! The folders an app-server of ours works in: a private Codex home that shares only the login, an empty
//! working folder for threads, and a runtime folder for its socket.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{debug, warn};

use super::SetupError;
use super::state_folder::{StateFolder, private_dir, write_private};
use crate::model::ThreadId;

/// `sun_path` holds 108 bytes on Linux and 104 elsewhere, the closing zero included.
const LONGEST_SOCKET_PATH: usize = 103;

/// The folders. Made by [`Home::prepare`]; paths only.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    private: PathBuf,
    user: PathBuf,
    user_auth: PathBuf,
    cwd: PathBuf,
    run: PathBuf,
    children: PathBuf,
}

impl Home {
    /// The folders below `state`; sockets go below `runtime_dir` (`$XDG_RUNTIME_DIR`) where that is given
    /// and can be used. Makes what is missing.
    pub(crate) fn prepare(
        state: &StateFolder,
        user_home: &Path,
        runtime_dir: Option<&Path>,
    ) -> Result<Self, SetupError> {
        let user_home = std::path::absolute(user_home)
            .map_err(|error| SetupError::folder("cannot use", user_home, &error))?;
        let root = state.path();
        let home = Self {
            private: root.join("codex-home"),
            user_auth: user_home.join("auth.json"),
            user: user_home,
            cwd: working_folder(&root.join("cwd"))?,
            run: runtime_folder(root, runtime_dir)?,
            children: root.join("children"),
        };
        private_dir(&home.private)?;
        if same_folder(&home.private, &home.user) {
            return Err(SetupError::Folder {
                what: "cannot share the login of",
                path: home.user,
                reason: "it is the bridge's own private Codex home; set CODEX_HOME to the user's".into(),
            });
        }
        private_dir(&home.children)?;
        home.refresh()?;
        Ok(home)
    }

    /// What each start of a child sets right again: the link to the login, the installation id, the empty
    /// configuration.
    pub(crate) fn refresh(&self) -> Result<(), SetupError> {
        self.link_login()?;
        let id = self.user.join("installation_id");
        if let Ok(content) = std::fs::read(&id) {
            write_private(&self.private.join("installation_id"), &content)?;
        }
        // Codex writes notices and the like into it; none of that is to outlive the child.
        write_private(&self.private.join("config.toml"), b"")
    }

    /// `CODEX_HOME` of the child.
    pub(crate) fn codex_home(&self) -> &Path {
        &self.private
    }

    /// Where the child keeps threads that are not ephemeral. They hold the client's words.
    pub(crate) fn sessions(&self) -> PathBuf {
        self.private.join("sessions")
    }

    /// Where Codex keeps the images it has generated, a folder for each thread.
    pub(crate) fn images(&self) -> PathBuf {
        self.private.join("generated_images")
    }

    /// Deletes the kept threads and databases that an earlier bridge left. For when no child runs.
    pub(crate) fn clear(&self) -> Result<(), SetupError> {
        for entry in std::fs::read_dir(&self.private).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            if name.starts_with("databases-") {
                let _ = std::fs::remove_dir_all(path);
            } else if name.contains(".sqlite") {
                // Of a codex that was run here without a folder of its own for them.
                let _ = std::fs::remove_file(path);
            }
        }
        let sessions = self.sessions();
        match std::fs::remove_dir_all(&sessions) {
            Ok(()) => tracing::debug!("kept threads of an earlier bridge were deleted"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(SetupError::folder("cannot empty", &sessions, &error)),
        }
        private_dir(&sessions)
    }

    /// The user's login file, which the private home's `auth.json` links to.
    pub(crate) fn auth_file(&self) -> &Path {
        &self.user_auth
    }

    /// The user's own Codex home.
    pub(crate) fn user_home(&self) -> &Path {
        &self.user
    }

    /// An empty folder, the working folder of every thread. Its name is this state folder's alone.
    pub(crate) fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// Where children are recorded while they run.
    pub(crate) fn children(&self) -> &Path {
        &self.children
    }

    /// The file of the lean catalogue for child number `child`.
    pub(crate) fn catalogue_file(&self, child: u64) -> PathBuf {
        // Two children with different catalogues run side by side while the older one drains.
        self.private.join(format!("catalogue-{child}.json"))
    }

    /// The socket of child number `child`; nothing is there yet.
    pub(crate) fn socket(&self, child: u64) -> PathBuf {
        self.run.join(format!("{child}.sock"))
    }

    /// Symlinked even when there is no login yet, so that a later `codex login` shows.
    fn link_login(&self) -> Result<(), SetupError> {
        let link = self.private.join("auth.json");
        match std::fs::symlink_metadata(&link) {
            Ok(found) if found.is_symlink() => {
                if std::fs::read_link(&link).is_ok_and(|target| target == self.user_auth) {
                    return Ok(());
                }
            }
            Ok(_) => {
                // Something replaced the link by a file of its own. Its tokens may be the newer ones: kept.
                tracing::warn!(path = %link.display(), "the link to the login had become a file; linked anew");
                let aside = self.private.join("auth.json.replaced");
                std::fs::rename(&link, &aside)
                    .map_err(|error| SetupError::folder("cannot put aside", &link, &error))?;
            }
            Err(_) => {}
        }
        let fresh = self.private.join("auth.json.new");
        let _ = std::fs::remove_file(&fresh);
        symlink(&self.user_auth, &fresh)
            .and_then(|()| std::fs::rename(&fresh, &link))
            .map_err(|error| SetupError::folder("cannot link", &link, &error))
    }
}

/// What a client connects to: the socket, or what the app-server's link at `socket` points to where the
/// path itself is too long for the kernel.
pub(crate) fn connectable(socket: &Path) -> Option<PathBuf> {
    if socket.as_os_str().len() <= LONGEST_SOCKET_PATH {
        return socket.exists().then(|| socket.to_owned());
    }
    std::fs::read_link(socket).ok().filter(|target| target.exists())
}

/// Bytes of the files in `folder`.
pub(super) fn size_of(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|found| found.len()).sum()
}

/// Removes the folders in `images` that nothing was put into for `life`.
pub(super) fn sweep_images(images: &Path, life: Duration) {
    // Most homes have none.
    for thread in std::fs::read_dir(images).into_iter().flatten().flatten() {
        let age = thread.metadata().and_then(|known| known.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age >= life)
            && let Err(error) = std::fs::remove_dir_all(thread.path())
        {
            warn!(%error, "generated images could not be removed");
        }
    }
}

/// Deletes the kept threads in `sessions` that nothing was written to for `life` and that are none of `kept`:
/// left where a deletion failed, or its child ended first.
pub(super) fn sweep_sessions(sessions: &Path, kept: &[ThreadId], life: Duration) {
    let mut folders = vec![sessions.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_kept = kept.iter().any(|thread| name.contains(thread.as_str()));
            let age = found.modified().ok().and_then(|at| at.elapsed().ok());
            if !is_kept && age.is_some_and(|age| age >= life) {
                match std::fs::remove_file(entry.path()) {
                    Ok(()) => debug!(file = %name, "a kept thread that nobody knows was deleted"),
                    Err(error) => warn!(file = %name, %error, "a kept thread could not be deleted"),
                }
            }
        }
    }
}

/// The one folder in `parent`, made where there is none. Its name was drawn by lot, so that threads are known by it
/// as this bridge's at an app-server that serves several, on other machines too.
fn working_folder(parent: &Path) -> Result<PathBuf, SetupError> {
    private_dir(parent)?;
    let is_own = |name: &OsStr| uuid::Uuid::try_parse(&name.to_string_lossy()).is_ok();
    let there = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let own = there.map(|entry| entry.file_name()).filter(|name| is_own(name)).min();
    let folder = parent.join(own.unwrap_or_else(|| uuid::Uuid::new_v4().to_string().into()));
    private_dir(&folder)?;
    Ok(folder)
}

/// Why a login that exists does not show in the private home, where that is so: it is kept in the keyring
/// of the operating system, under the path of the user's own Codex home.
pub(crate) fn keyring_login(user_home: &Path) -> Option<String> {
    let config: toml::Table = std::fs::read_to_string(user_home.join("config.toml")).ok()?.parse().ok()?;
    let store = config.get("cli_auth_credentials_store")?.as_str()?;
    if !matches!(store, "keyring" | "auto") || user_home.join("auth.json").exists() {
        return None;
    }
    Some(format!(
        "{} says `cli_auth_credentials_store = \"{store}\"`: a login in the keyring of the operating system \
         cannot be shared with the bridge. Log in to a file with: codex login -c \
         cli_auth_credentials_store='\"file\"'",
        user_home.join("config.toml").display()
    ))
}

fn runtime_folder(state: &Path, runtime_dir: Option<&Path>) -> Result<PathBuf, SetupError> {
    if let Some(base) = runtime_dir.filter(|base| base.is_absolute() && base.is_dir()) {
        // One folder per state folder. The name need only differ between folders, and a clash costs nothing
        // but socket names.
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        let folder = base.join(format!("codex-bridge-{:08x}", hasher.finish() & 0xffff_ffff));
        match private_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) => {
                tracing::warn!(%error, "the runtime folder cannot be used; sockets go to the state folder");
            }
        }
    }
    let folder = state.join("run");
    private_dir(&folder)?;
    Ok(folder)
}

fn same_folder(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    struct Folders {
        temp: tempfile::TempDir,
        state: StateFolder,
    }

    impl Folders {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let state = StateFolder::open(&temp.path().join("state")).unwrap();
            std::fs::create_dir(temp.path().join("user")).unwrap();
            Self { temp, state }
        }

        fn user(&self, name: &str) -> PathBuf {
            self.temp.path().join("user").join(name)
        }

        fn prepare(&self) -> Result<Home, SetupError> {
            Home::prepare(&self.state, &self.temp.path().join("user"), None)
        }
    }

    #[test]
    fn a_login_that_comes_later_shows_through_the_link() {
        let folders = Folders::new();
        let home = folders.prepare().unwrap();
        let auth = home.codex_home().join("auth.json");
        assert!(!auth.exists());
        std::fs::write(folders.user("auth.json"), "later").unwrap();
        assert_eq!(std::fs::read_to_string(&auth).unwrap(), "later");
        // And what the child writes goes to the user's file.
        std::fs::write(&auth, "refreshed").unwrap();
        home.refresh().unwrap();
        assert_eq!(std::fs::read_to_string(folders.user("auth.json")).unwrap(), "refreshed");
    }

    #[test]
    fn a_link_that_was_replaced_or_points_elsewhere_is_made_anew() {
        let folders = Folders::new();
        let home = folders.prepare().unwrap();
        let auth = home.codex_home().join("auth.json");
        std::fs::remove_file(&auth).unwrap();
        std::fs::write(&auth, "stray").unwrap();
        home.refresh().unwrap();
        assert_eq!(std::fs::read_link(&auth).unwrap(), folders.user("auth.json"));
        assert_eq!(std::fs::read_to_string(home.codex_home().join("auth.json.replaced")).unwrap(), "stray");
        std::fs::remove_file(&auth).unwrap();
        symlink("/elsewhere", &auth).unwrap();
        home.refresh().unwrap();
        assert_eq!(std::fs::read_link(&auth).unwrap(), folders.user("auth.json"));
    }

    #[test]
    fn only_login_and_installation_id_are_shared() {
        let folders = Folders::new();
        std::fs::write(folders.user("installation_id"), "id-1").unwrap();
        std::fs::write(folders.user("config.toml"), "model = \"theirs\"").unwrap();
        std::fs::write(folders.user("AGENTS.md"), "theirs").unwrap();
        let home = folders.prepare().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(home.codex_home())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["auth.json", "config.toml", "installation_id"]);
        assert_eq!(std::fs::read_to_string(home.codex_home().join("config.toml")).unwrap(), "");
        assert_eq!(std::fs::read_to_string(home.codex_home().join("installation_id")).unwrap(), "id-1");
        assert_eq!(std::fs::metadata(home.codex_home()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(home.cwd()).unwrap().count(), 0);
    }

    #[test]
    fn what_an_earlier_bridge_kept_is_deleted() {
        let folders = Folders::new();
        let home = folders.prepare().unwrap();
        std::fs::create_dir_all(home.sessions().join("2026/01")).unwrap();
        std::fs::write(home.sessions().join("2026/01/rollout.jsonl"), "words").unwrap();
        std::fs::create_dir(home.codex_home().join("databases-3")).unwrap();
        std::fs::write(home.codex_home().join("databases-3/logs_2.sqlite"), "words").unwrap();
        std::fs::write(home.codex_home().join("logs_2.sqlite-wal"), "words").unwrap();
        home.clear().unwrap();
        assert!(!home.codex_home().join("databases-3").exists());
        assert!(!home.codex_home().join("logs_2.sqlite-wal").exists());
        assert_eq!(std::fs::read_dir(home.sessions()).unwrap().count(), 0);
        assert_eq!(std::fs::metadata(home.sessions()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_kept_thread_that_nobody_knows_is_deleted_once_it_is_old() {
        let folders = Folders::new();
        let home = folders.prepare().unwrap();
        let day = home.sessions().join("2026/01/02");
        std::fs::create_dir_all(&day).unwrap();
        let file = |thread: &str| day.join(format!("rollout-2026-01-02T00-00-00-{thread}.jsonl"));
        for thread in ["known", "unknown"] {
            std::fs::write(file(thread), "words").unwrap();
        }
        let known = [ThreadId::new("-known")];
        sweep_sessions(&home.sessions(), &known, Duration::from_secs(60));
        assert!(file("unknown").exists(), "it may have been made just now");
        sweep_sessions(&home.sessions(), &known, Duration::ZERO);
        assert!(file("known").exists() && !file("unknown").exists());
    }

    #[test]
    fn the_working_folder_has_a_name_of_its_own_that_stays() {
        let folders = Folders::new();
        let first = folders.prepare().unwrap();
        assert_eq!(folders.prepare().unwrap().cwd(), first.cwd());
        assert_ne!(Folders::new().prepare().unwrap().cwd().file_name(), first.cwd().file_name());
    }

    #[test]
    fn the_private_home_is_never_its_own_user() {
        let folders = Folders::new();
        folders.prepare().unwrap();
        let error = Home::prepare(&folders.state, &folders.state.path().join("codex-home"), None);
        assert!(error.unwrap_err().to_string().contains("CODEX_HOME"));
    }

    #[test]
    fn sockets_go_to_the_runtime_folder_where_there_is_one() {
        let folders = Folders::new();
        let runtime = folders.temp.path().join("runtime");
        std::fs::create_dir(&runtime).unwrap();
        let user = folders.temp.path().join("user");
        let home = Home::prepare(&folders.state, &user, Some(&runtime)).unwrap();
        let socket = home.socket(0);
        assert!(socket.starts_with(&runtime));
        assert_eq!(std::fs::metadata(socket.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_ne!(socket, home.socket(1));
        for unusable in [runtime.join("gone"), PathBuf::from("relative")] {
            let home = Home::prepare(&folders.state, &user, Some(&unusable)).unwrap();
            assert!(home.socket(0).starts_with(folders.state.path()), "{}", unusable.display());
        }
    }

    #[test]
    fn a_path_too_long_for_the_kernel_is_reached_through_the_link() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("t");
        let deep = temp.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let socket = deep.join("0.sock");
        assert_eq!(connectable(&socket), None);
        symlink(&target, &socket).unwrap();
        assert_eq!(connectable(&socket), None, "the link comes before the socket");
        std::fs::write(&target, "").unwrap();
        assert_eq!(connectable(&socket), Some(target.clone()));
        assert_eq!(connectable(&target), Some(target));
    }

    #[test]
    fn generated_images_are_removed_in_time() {
        let temp = tempfile::tempdir().unwrap();
        let images = temp.path().join("generated_images");
        sweep_images(&images, Duration::ZERO);
        std::fs::create_dir_all(images.join("thread")).unwrap();
        std::fs::write(images.join("thread/c1.png"), "").unwrap();
        sweep_images(&images, Duration::from_secs(3600));
        assert!(images.join("thread/c1.png").exists());
        sweep_images(&images, Duration::ZERO);
        assert!(!images.join("thread").exists() && images.exists());
    }

    #[test]
    fn a_login_in_the_keyring_is_explained() {
        let folders = Folders::new();
        let user = folders.temp.path().join("user");
        assert_eq!(keyring_login(&user), None, "no configuration");
        for (store, explained) in [("file", false), ("keyring", true), ("auto", true)] {
            let config = format!("cli_auth_credentials_store = \"{store}\"\n");
            std::fs::write(folders.user("config.toml"), config).unwrap();
            assert_eq!(keyring_login(&user).is_some(), explained, "{store}");
        }
        std::fs::write(folders.user("auth.json"), "{}").unwrap();
        assert_eq!(keyring_login(&user), None, "there is a file");
    }
}
