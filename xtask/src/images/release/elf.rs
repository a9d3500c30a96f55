//! How a program is linked, read from the file itself.

use std::ops::Range;

/// What a file says of how it is to be loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Linkage {
    /// It is no program.
    None,
    /// It needs nothing but the kernel.
    Static,
    /// It needs a loader, and libraries by name.
    Dynamic {
        /// The loader's path; a library has none.
        loader: Option<String>,
        /// The libraries.
        libraries: Vec<String>,
    },
    /// It begins like a program and is none that this can read.
    Damaged,
}

const MAGIC: &[u8] = b"\x7fELF";
/// 64 bits, little-endian: all that we build for.
const CLASS: [u8; 2] = [2, 1];
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
/// Bytes of an entry of the dynamic section.
const DYNAMIC_ENTRY: usize = 16;

/// Reads how a program is linked.
pub(super) fn linkage(file: &[u8]) -> Linkage {
    if !file.starts_with(MAGIC) {
        return Linkage::None;
    }
    read(file).unwrap_or(Linkage::Damaged)
}

/// A part of the file that the kernel or the loader looks at.
struct Segment {
    kind: u64,
    file: Range<usize>,
    address: u64,
}

fn read(file: &[u8]) -> Option<Linkage> {
    if file.get(4..6)? != CLASS {
        return None;
    }
    let segments = segments(file)?;
    let find = |kind: u64| segments.iter().find(|segment| segment.kind == kind);
    let loader = match find(PT_INTERP) {
        Some(segment) => Some(text(file, segment.file.start)?),
        None => None,
    };
    let libraries = match find(PT_DYNAMIC) {
        Some(segment) => libraries(file, segment, &segments)?,
        None => Vec::new(),
    };
    // A static program that may be loaded anywhere has a dynamic section as well, but needs nothing.
    if loader.is_none() && libraries.is_empty() {
        return Some(Linkage::Static);
    }
    Some(Linkage::Dynamic { loader, libraries })
}

fn segments(file: &[u8]) -> Option<Vec<Segment>> {
    let table = usize::try_from(number(file, 0x20, 8)?).ok()?;
    let size = usize::try_from(number(file, 0x36, 2)?).ok()?;
    let count = usize::try_from(number(file, 0x38, 2)?).ok()?;
    (0..count)
        .map(|index| {
            let at = table.checked_add(index.checked_mul(size)?)?;
            let start = usize::try_from(number(file, at + 8, 8)?).ok()?;
            let length = usize::try_from(number(file, at + 32, 8)?).ok()?;
            Some(Segment {
                kind: number(file, at, 4)?,
                file: start..start.checked_add(length)?,
                address: number(file, at + 16, 8)?,
            })
        })
        .collect()
}

fn libraries(file: &[u8], dynamic: &Segment, segments: &[Segment]) -> Option<Vec<String>> {
    let section = file.get(dynamic.file.clone())?;
    let mut needed = Vec::new();
    let mut strings = None;
    for at in (0..section.len()).step_by(DYNAMIC_ENTRY) {
        let value = number(section, at + 8, 8)?;
        match number(section, at, 8)? {
            DT_NULL => break,
            DT_NEEDED => needed.push(value),
            DT_STRTAB => strings = Some(value),
            _ => {}
        }
    }
    if needed.is_empty() {
        return Some(Vec::new());
    }
    let strings = offset(strings?, segments)?;
    needed
        .into_iter()
        .map(|name| text(file, strings.checked_add(usize::try_from(name).ok()?)?))
        .collect()
}

/// Where in the file is what will be at an address.
fn offset(address: u64, segments: &[Segment]) -> Option<usize> {
    let mut loaded = segments.iter().filter(|segment| segment.kind == PT_LOAD);
    loaded.find_map(|segment| {
        let into = usize::try_from(address.checked_sub(segment.address)?).ok()?;
        (into < segment.file.len()).then_some(segment.file.start + into)
    })
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    let digits = bytes.iter().rev();
    Some(digits.fold(0, |number, byte| (number << 8) | u64::from(*byte)))
}

fn text(file: &[u8], at: usize) -> Option<String> {
    let bytes = file.get(at..)?.split(|byte| *byte == 0).next()?;
    String::from_utf8(bytes.to_vec()).ok()
}

/// Programs of a few bytes, for tests.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    fn put(bytes: &mut Vec<u8>, number: u64, length: usize) {
        bytes.extend(&number.to_le_bytes()[..length]);
    }

    fn header(segments: u64) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend(CLASS);
        file.resize(0x20, 0);
        put(&mut file, 0x40, 8);
        file.resize(0x36, 0);
        put(&mut file, 56, 2);
        put(&mut file, segments, 2);
        file.resize(0x40, 0);
        file
    }

    fn segment(file: &mut Vec<u8>, kind: u64, start: u64, length: u64) {
        put(file, kind, 4);
        put(file, 0, 4);
        put(file, start, 8);
        // Loaded at 0x1000 above its place in the file.
        put(file, start + 0x1000, 8);
        put(file, 0, 8);
        put(file, length, 8);
        put(file, length, 8);
        put(file, 0, 8);
    }

    /// A program that needs nothing.
    pub(crate) fn static_program() -> Vec<u8> {
        let mut file = header(1);
        segment(&mut file, PT_LOAD, 0, 120);
        file
    }

    /// A program that needs this loader and this library.
    pub(crate) fn dynamic_program(loader: &str, library: &str) -> Vec<u8> {
        let mut file = header(3);
        let strings = 0x40 + 3 * 56;
        let dynamic = strings + loader.len() as u64 + 1 + library.len() as u64 + 1;
        let end = dynamic + 48;
        segment(&mut file, PT_LOAD, 0, end);
        segment(&mut file, PT_INTERP, strings, loader.len() as u64 + 1);
        segment(&mut file, PT_DYNAMIC, dynamic, 48);
        file.extend(loader.bytes().chain([0]).chain(library.bytes()).chain([0]));
        let name = loader.len() as u64 + 1;
        for (tag, value) in [
            (DT_STRTAB, strings + 0x1000),
            (DT_NEEDED, name),
            (DT_NULL, 0),
        ] {
            put(&mut file, tag, 8);
            put(&mut file, value, 8);
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{dynamic_program, static_program};
    use super::*;

    #[test]
    fn programs_say_how_they_are_linked() {
        assert_eq!(linkage(b"#!/bin/sh\n"), Linkage::None);
        assert_eq!(linkage(&static_program()), Linkage::Static);
        assert_eq!(
            linkage(&dynamic_program("/lib64/ld.so", "libc.so.6")),
            Linkage::Dynamic {
                loader: Some("/lib64/ld.so".to_owned()),
                libraries: vec!["libc.so.6".to_owned()],
            }
        );
    }

    #[test]
    fn a_program_cut_short_is_not_taken_for_a_static_one() {
        let whole = dynamic_program("/lib64/ld.so", "libc.so.6");
        for length in MAGIC.len()..whole.len() - DYNAMIC_ENTRY {
            let cut = linkage(&whole[..length]);
            assert_ne!(cut, Linkage::Static, "{length}");
        }
    }

    #[test]
    fn this_program_is_read_as_the_system_reads_it() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        assert!(
            matches!(linkage(&file), Linkage::Dynamic { loader: Some(_), libraries } if !libraries.is_empty())
        );
    }
}
