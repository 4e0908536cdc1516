//! The executables of the programs under test.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The program beside this test's own executable, built first if it is missing or older than its sources. To be asked once for each
/// program: a build takes its time.
pub(crate) fn built(program: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let path = profile
        .join(program)
        .with_extension(env::consts::EXE_EXTENSION);
    if !is_current(&path) {
        build(program, profile);
        assert!(path.is_file(), "{} was not built", path.display());
    }
    path
}

fn build(program: &str, profile: &Path) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let name = match profile.file_name().and_then(OsStr::to_str) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} has no profile", profile.display()),
    };
    let built = Command::new(cargo)
        .args(["build", "--package", program, "--profile", name])
        .arg("--target-dir")
        .arg(profile.parent().unwrap())
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .status()
        .unwrap();
    assert!(built.success(), "{program} cannot be built");
}

/// Whether the executable is there, and newer than the lock file and every source that cargo lists beside it.
fn is_current(executable: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    let (Ok(built), Ok(sources)) = (
        modified(executable),
        fs::read_to_string(executable.with_extension("d")),
    ) else {
        return false;
    };
    let Some((_, sources)) = sources.split_once(": ") else {
        return false;
    };
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.lock");
    let is_older = |path: &Path| modified(path).is_ok_and(|changed| changed <= built);
    // Spaces within a path are escaped: such a path is not found, and the program is built, which cargo does quickly.
    is_older(&lock) && sources.split_whitespace().map(Path::new).all(is_older)
}
