//! What an image takes from Debian packages: programs that no static build of is to be had, with the
//! libraries that they need.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::super::{Layer, read};
use super::sbom::Component;
use crate::system;

/// A package that something in an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    /// Its name.
    pub(super) name: String,
    /// Its version.
    pub(super) version: String,
    /// Its architecture.
    pub(super) architecture: String,
}

impl Package {
    /// The package called `name`, as it is installed.
    pub(super) fn installed(name: &str) -> Result<Self> {
        let said = system::capture(Command::new("dpkg-query").args([
            "--show",
            "--showformat=${Package} ${Version} ${Architecture}\\n",
            name,
        ]))?;
        let line = said.lines().next().unwrap_or_default();
        parse(line).with_context(|| format!("dpkg-query says {line:?} of {name}"))
    }

    /// The package that a file belongs to.
    pub(super) fn of(file: &Path) -> Result<Self> {
        let name = places(file)
            .iter()
            .find_map(|place| {
                let mut command = Command::new("dpkg-query");
                let said = system::capture(command.arg("--search").arg(place)).ok()?;
                let (packages, _) = said.lines().next()?.split_once(": ")?;
                Some(packages.split(", ").next()?.to_owned())
            })
            .with_context(|| {
                format!(
                    "no package has {}: its origin could not be told",
                    file.display()
                )
            })?;
        Self::installed(&name)
    }

    /// What the image's list says of it.
    pub(super) fn component(&self) -> Component {
        let (name, version) = (&self.name, &self.version);
        let escaped = version.replace('+', "%2B").replace(':', "%3A");
        Component {
            kind: "library",
            name: name.clone(),
            version: version.clone(),
            purl: format!("pkg:deb/debian/{name}@{escaped}?arch={}", self.architecture),
            license: None,
            sha256: None,
        }
    }
}

fn parse(line: &str) -> Option<Package> {
    let mut words = line.split(' ').map(str::to_owned);
    Some(Package {
        name: words.next().filter(|name| !name.is_empty())?,
        version: words.next()?,
        architecture: words.next()?,
    })
}

/// A file may be known by where it was before /bin, /lib and /sbin became links into /usr, or by where it is since.
fn places(file: &Path) -> [PathBuf; 2] {
    match file.strip_prefix("/usr") {
        Ok(rest) => [file.to_owned(), Path::new("/").join(rest)],
        Err(_) => {
            let rest = file.strip_prefix("/").unwrap_or(file);
            [file.to_owned(), Path::new("/usr").join(rest)]
        }
    }
}

/// Adds the program of an installed package to a layer, with its loader, its libraries and what their packages say of
/// their licences. Returns the packages.
pub(super) fn add_program(layer: &mut Layer, name: &str, package: &str) -> Result<Vec<Package>> {
    let program = system::find_on_path(name)
        .or_else(|| Some(Path::new("/usr/sbin").join(name)).filter(|file| file.is_file()))
        .with_context(|| format!("{name} is not installed (package {package})"))?;
    layer.file(&format!("usr/sbin/{name}"), 0o755, read(&program)?);
    let said = system::capture(Command::new("ldd").arg(&program))?;
    let libraries = libraries(&said);
    ensure!(
        !libraries.is_empty(),
        "ldd does not say what {} needs",
        program.display()
    );
    let mut packages = BTreeMap::new();
    let mut found = vec![Package::installed(package)?];
    for library in &libraries {
        let path = library.strip_prefix("/").unwrap_or(library);
        let path = path
            .to_str()
            .with_context(|| format!("{} is not UTF-8", library.display()))?;
        layer.file(path, 0o755, read(library)?);
        found.push(Package::of(library)?);
    }
    for package in found {
        packages.insert(package.name.clone(), package);
    }
    for name in packages.keys() {
        add_copyright(layer, name)?;
    }
    Ok(packages.into_values().collect())
}

/// Adds what a package says of its licences.
pub(super) fn add_copyright(layer: &mut Layer, package: &str) -> Result<()> {
    let path = format!("usr/share/doc/{package}/copyright");
    let text = read(&Path::new("/").join(&path))?;
    layer.file(&path, 0o644, text);
    Ok(())
}

/// The loader and the libraries in what `ldd` says.
fn libraries(said: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = said
        .lines()
        .filter_map(|line| {
            let (line, _) = line.trim().rsplit_once(" (")?;
            let place = line.rsplit_once(" => ").map_or(line, |(_, place)| place);
            // The kernel's own has no file.
            place.starts_with('/').then(|| PathBuf::from(place))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_come_from_what_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x00007f04f0bd7000)\n\
                    \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f04f0ae4000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f4e6acd2000)\n";
        assert_eq!(
            libraries(said),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libmnl.so.0"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2"),
            ]
        );
        assert!(libraries("\tstatically linked\n").is_empty());
    }

    #[test]
    fn a_file_is_looked_for_at_both_of_its_places() {
        let places = |file: &str| places(Path::new(file)).map(|place| place.display().to_string());
        assert_eq!(places("/lib/a.so"), ["/lib/a.so", "/usr/lib/a.so"]);
        assert_eq!(places("/usr/lib/a.so"), ["/usr/lib/a.so", "/lib/a.so"]);
    }

    #[test]
    fn packages_are_named_with_version_and_architecture() {
        let package = parse("nftables 1.0.6-2+deb12u2 amd64").unwrap();
        assert_eq!(
            package.component().purl,
            "pkg:deb/debian/nftables@1.0.6-2%2Bdeb12u2?arch=amd64"
        );
        assert_eq!(parse(""), None);
        assert_eq!(parse("nftables 1.0"), None);
    }
}
