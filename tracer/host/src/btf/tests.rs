//! The reader against another one, and against bytes that are no BTF.

use std::path::Path;
use std::sync::Arc;

use btf_rs::BtfType as _;
use proptest::prelude::*;

use super::reader::{Btf, FormatError};
use super::{DIRECTORY, Types};

/// BTF being written: types and names in the order in which they are added.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    names: Vec<u8>,
    count: u32,
    first_string: u32,
}

impl Writer {
    fn image() -> Self {
        Self { names: vec![0], ..Self::default() }
    }

    /// BTF of a module on top of `image`.
    fn module(image: &Self) -> Self {
        Self { count: image.count, first_string: image.names.len() as u32, ..Self::default() }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.first_string + self.names.len() as u32;
        self.names.extend(name.bytes().chain([0]));
        at
    }

    fn add(&mut self, name: u32, kind: u32, entries: u32, last: u32, rest: &[u32]) -> u32 {
        for word in [name, kind << 24 | entries, last].iter().chain(rest) {
            self.types.extend(word.to_ne_bytes());
        }
        self.count += 1;
        self.count
    }

    fn bytes(&self) -> Vec<u8> {
        let (types, names) = (self.types.len() as u32, self.names.len() as u32);
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, types, types, names] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(&self.types);
        bytes.extend(&self.names);
        bytes
    }
}

/// `struct outer { struct { union { typedef const struct inner *p; u32 deep; }; }; struct inner list[4]; }` and more.
fn small() -> Writer {
    let mut to = Writer::image();
    let int = to.name("unsigned int");
    let int = to.add(int, 1, 0, 4, &[32]);
    let [value, name] = ["value", "inner"].map(|name| to.name(name));
    let inner = to.add(name, 4, 1, 4, &[value, int, 0]);
    let constant = to.add(0, 10, 0, inner, &[]);
    let pointer = to.add(0, 2, 0, constant, &[]);
    let [alias, p, deep, list, outer] = ["inner_p", "p", "deep", "list", "outer"].map(|name| to.name(name));
    let alias = to.add(alias, 8, 0, pointer, &[]);
    let union = to.add(0, 5, 2, 8, &[p, alias, 0, deep, int, 0]);
    let wrapper = to.add(0, 4, 1, 8, &[0, union, 0]);
    let array = to.add(0, 3, 0, 0, &[inner, int, 4]);
    to.add(outer, 4, 2, 24, &[0, wrapper, 64, list, array, 128]);
    let [one, two, colours] = ["ONE", "TWO", "colours"].map(|name| to.name(name));
    to.add(colours, 6, 2, 4, &[one, 1, two, 2]);
    let [arg, function] = ["arg", "log_it"].map(|name| to.name(name));
    let proto = to.add(0, 13, 2, 0, &[arg, alias, 0, 0]);
    to.add(function, 12, 1, proto, &[]);
    // The same name again, as a declaration and a later struct: the first struct counts.
    to.add(outer, 7, 0, 0, &[]);
    to.add(outer, 4, 0, 1, &[]);
    to
}

fn parse(bytes: Vec<u8>) -> Result<Arc<Btf>, FormatError> {
    Btf::parse(bytes, None).map(Arc::new)
}

#[test]
fn finds_what_a_small_kernel_has() {
    let writer = small();
    let image = parse(writer.bytes()).unwrap();
    let types = Types { btf: &image };
    assert_eq!(types.offset("outer", "deep"), Some(8));
    assert_eq!(types.offset("outer", "list.value"), Some(16));
    assert_eq!(types.offset("outer", "absent"), None);
    assert_eq!(types.size("outer"), Some(24));
    assert_eq!(types.enumeration("colours"), Some(vec![("ONE".to_owned(), 1), ("TWO".to_owned(), 2)]));
    assert!(types.has_type("inner") && !types.has_type("log_it") && !types.has_type("inne"));
    let prototype = types.prototype("log_it").unwrap();
    assert_eq!((prototype.text.as_str(), prototype.variadic), ("void (inner_p arg, ...)", true));

    let mut module = Writer::module(&writer);
    let [own, member] = ["own", "member"].map(|name| module.name(name));
    let image_type = 2;
    module.add(own, 4, 1, 4, &[member, image_type, 32]);
    let module = Btf::parse(module.bytes(), Some(image)).unwrap();
    let types = Types { btf: &module };
    assert_eq!(types.offset("own", "member.value"), Some(4));
    assert_eq!(types.size("outer"), Some(24));
}

#[test]
fn circles_end() {
    let mut to = Writer::image();
    let [a, f] = ["a", "f"].map(|name| to.name(name));
    // A struct that is its own anonymous member, a typedef of itself, and a function that returns it.
    to.add(a, 4, 1, 4, &[0, 1, 8]);
    to.add(a, 8, 0, 2, &[]);
    let pointer = to.add(0, 2, 0, 3, &[]);
    let proto = to.add(0, 13, 0, pointer, &[]);
    to.add(f, 12, 0, proto, &[]);
    let btf = parse(to.bytes()).unwrap();
    let types = Types { btf: &btf };
    assert_eq!(types.offset("a", "b"), None);
    assert!(types.prototype("f").unwrap().text.starts_with("? *"));
}

#[test]
fn says_why_it_cannot_read() {
    let good = small().bytes();
    for length in 0..good.len() {
        let expected = if length < 24 { FormatError::Header } else { FormatError::Section };
        assert_eq!(parse(good[..length].to_vec()).unwrap_err(), expected, "{length} bytes");
    }
    let mut to = Writer::image();
    to.add(0, 31, 0, 0, &[]);
    assert_eq!(parse(to.bytes()).unwrap_err(), FormatError::Kind(1, 31));
    let mut to = Writer::image();
    to.add(0, 4, 2, 0, &[0, 0, 0]);
    assert_eq!(parse(to.bytes()).unwrap_err(), FormatError::Cut(1));
}

/// Compares structs, unions, enumerations and functions with what btf-rs reads from the same bytes; returns how many.
fn agrees_with_btf_rs(bytes: Vec<u8>) -> usize {
    let other = btf_rs::Btf::from_bytes(&bytes).unwrap();
    let own = parse(bytes).unwrap();
    let types = Types { btf: &own };
    let mut compared = 0;
    for id in 1..=other.base().type_id_range().1 {
        let found = other.resolve_type_by_id(id).unwrap();
        let named = |found: &dyn btf_rs::BtfType| other.resolve_name(found).unwrap_or_default();
        match &found {
            btf_rs::Type::Struct(found) | btf_rs::Type::Union(found) => {
                let members = own.by_number(id).unwrap().members();
                let members: Vec<_> = members
                    .map(|(name, kind, at)| (own.string(name).unwrap_or_default().to_owned(), kind, at))
                    .collect();
                let theirs = found.members.iter().map(|m| (named(m), m.get_type_id().unwrap(), m.bit_offset()));
                assert_eq!(members, theirs.collect::<Vec<_>>(), "{}", named(found));
                compared += 1;
            }
            btf_rs::Type::Enum(found) => {
                let members = found.members.iter().map(|m| (named(m), m.val())).collect::<Vec<_>>();
                let pairs = own.by_number(id).unwrap().pairs();
                let pairs: Vec<_> = pairs.map(|(name, val)| (own.string(name).unwrap().to_owned(), val)).collect();
                assert_eq!(pairs, members, "{}", named(found));
                compared += 1;
            }
            btf_rs::Type::Func(found) => {
                let name = named(found);
                let Ok(btf_rs::Type::FuncProto(proto)) = other.resolve_chained_type(found) else { panic!("{name}") };
                let theirs: Vec<String> =
                    proto.parameters.iter().filter(|p| !p.is_variadic()).map(|p| named(p)).collect();
                // Several functions may have one name; the first is what is asked for.
                if other.resolve_ids_by_name(&name).unwrap().first() == Some(&id) {
                    assert_eq!(types.prototype(&name).unwrap().parameters, theirs, "{name}");
                    compared += 1;
                }
            }
            _ => {}
        }
    }
    compared
}

#[test]
fn another_reader_agrees() {
    assert_eq!(agrees_with_btf_rs(small().bytes()), 7);
    // A machine whose kernel describes itself has a hundred thousand types more to compare.
    let file = Path::new(DIRECTORY).join("vmlinux");
    if file.exists() {
        assert!(agrees_with_btf_rs(std::fs::read(file).unwrap()) > 10_000);
    }
}

proptest! {
    /// Whatever is written over BTF, nothing panics and nothing goes on for ever.
    #[test]
    fn takes_any_bytes(changes in prop::collection::vec((0_usize..1000, any::<u8>()), 0..12), split in any::<bool>()) {
        let good = small();
        let mut bytes = good.bytes();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let base = split.then(|| parse(good.bytes()).unwrap());
        if let Ok(btf) = Btf::parse(bytes, base) {
            let types = Types { btf: &btf };
            for name in ["outer", "inner", "colours", "log_it", ""] {
                let _offset = types.offset(name, "deep.value");
                let _size = (types.size(name), types.has_type(name), types.enumeration(name), types.prototype(name));
            }
        }
    }
}
