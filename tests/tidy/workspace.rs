//! What the tests look at: the manifests as cargo reads them, and the folder they stand in.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use cargo_metadata::{Metadata, MetadataCommand, Package};

/// The workspace as cargo resolves it for this platform, all features on.
pub(crate) fn metadata() -> &'static Metadata {
    static METADATA: OnceLock<Metadata> = OnceLock::new();
    METADATA.get_or_init(|| {
        // Without the filter cargo would download what other platforms need.
        MetadataCommand::new()
            .manifest_path(root().join("Cargo.toml"))
            .other_options(
                ["--all-features", "--filter-platform", "host-tuple"]
                    .map(str::to_owned)
                    .to_vec(),
            )
            .exec()
            .expect("cargo can read the workspace's manifests")
    })
}

/// The packages of this workspace.
pub(crate) fn members() -> Vec<&'static Package> {
    metadata().workspace_packages()
}

/// The packages of this workspace that go to crates.io.
pub(crate) fn libraries() -> Vec<&'static Package> {
    members()
        .into_iter()
        .filter(|package| package.publish.is_none())
        .collect()
}

/// Whether the dependency is a package of this workspace.
pub(crate) fn is_ours(dependency: &cargo_metadata::Dependency) -> bool {
    dependency.path.is_some()
}

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests stand in a folder of the workspace")
}

/// The folder of a package.
pub(crate) fn folder(package: &Package) -> PathBuf {
    let manifest = package.manifest_path.as_std_path();
    manifest
        .parent()
        .expect("a manifest stands in a folder")
        .to_owned()
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The path as seen from the workspace's folder.
pub(crate) fn relative(path: &Path) -> String {
    let shown = path.strip_prefix(root()).unwrap_or(path);
    shown.display().to_string()
}

/// Fails with every problem on a line of its own, and with how to mend them.
#[track_caller]
pub(crate) fn assert_none(problems: &[String], mend: &str) {
    assert!(
        problems.is_empty(),
        "\n{}\n\nTo mend: {mend}\n",
        problems.join("\n")
    );
}
