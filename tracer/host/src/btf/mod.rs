//! The running kernel's description of its own types: BTF of the kernel image and of the modules that whyrst reads. The format
//! is in `reader`, what the types mean for the programs in [`crate::layout`].

mod reader;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use self::reader::{Btf, Kind, Type};

pub use self::reader::FormatError;

/// Where the kernel shows its BTF.
pub const DIRECTORY: &str = "/sys/kernel/btf";

/// Type descriptions of the kernel image, and of one module on top of it.
pub struct KernelBtf {
    image: Arc<Btf>,
    directory: PathBuf,
}

/// Why the kernel's types are not known.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel image has no BTF.
    #[error("reading {path}", path = path.display())]
    Absent {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        #[source]
        source: io::Error,
    },
    /// The file is there and cannot be understood.
    #[error("{path} cannot be understood", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
}

/// A function's parameters as BTF has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prototype {
    /// The names, in order, without the `...` of a variadic function.
    pub parameters: Vec<String>,
    /// Whether it takes more arguments than it names.
    pub variadic: bool,
    /// The whole prototype in C, without the function's name: `void (struct net *net, int hook)`.
    pub text: String,
}

impl KernelBtf {
    /// Reads the BTF of the running kernel.
    pub fn of_running_kernel() -> Result<Self, BtfError> {
        Self::load(Path::new(DIRECTORY))
    }

    /// Reads `vmlinux` in `directory`; modules are read from there when they are asked for.
    pub fn load(directory: &Path) -> Result<Self, BtfError> {
        let path = directory.join("vmlinux");
        let bytes = fs::read(&path).map_err(|source| BtfError::Absent { path: path.clone(), source })?;
        let image = Btf::parse(bytes, None).map_err(|source| BtfError::Unreadable { path, source })?;
        Ok(Self { image: Arc::new(image), directory: directory.to_path_buf() })
    }

    /// The types of the kernel image.
    pub fn image(&self) -> Types<'_> {
        Types { btf: &self.image }
    }

    /// The types of a module together with those of the image; `None` where the module is not loaded or has no BTF of
    /// its own (5.10 writes none for modules).
    pub fn module(&self, name: &str) -> Result<Option<Module>, BtfError> {
        let path = self.directory.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(BtfError::Absent { path, source }),
        };
        let btf = Btf::parse(bytes, Some(Arc::clone(&self.image)));
        let btf = btf.map_err(|source| BtfError::Unreadable { path, source })?;
        Ok(Some(Module { btf }))
    }
}

/// BTF of a module on top of the image's.
pub struct Module {
    btf: Btf,
}

impl Module {
    /// Its types and the image's.
    pub fn types(&self) -> Types<'_> {
        Types { btf: &self.btf }
    }
}

/// Look-ups in one BTF object.
#[derive(Clone, Copy)]
pub struct Types<'a> {
    btf: &'a Btf,
}

impl<'a> Types<'a> {
    /// The byte offset of `path` in `struct name`: members separated by dots, anonymous members left out.
    pub fn offset(self, name: &str, path: &str) -> Option<u32> {
        let mut current = self.structure(name)?;
        let mut bits: u32 = 0;
        let mut members = path.split('.').peekable();
        while let Some(member) = members.next() {
            let (offset, inner) = self.member(current, member, DEEPEST)?;
            bits = bits.checked_add(offset)?;
            if members.peek().is_some() {
                current = self.as_structure(inner)?;
            }
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// The size of `struct name` in bytes.
    pub fn size(self, name: &str) -> Option<u32> {
        Some(self.structure(name)?.size())
    }

    /// Whether a struct, union or enum of that name is known.
    pub fn has_type(self, name: &str) -> bool {
        self.btf.by_name(name).any(|found| found.kind != Kind::Func)
    }

    /// Names and values of an enumeration.
    pub fn enumeration(self, name: &str) -> Option<Vec<(String, u32)>> {
        let found = self.btf.by_name(name).find(|found| found.kind == Kind::Enum)?;
        found.pairs().map(|(name, value)| Some((self.btf.string(name)?.to_owned(), value))).collect()
    }

    /// The prototype of the function `name`.
    pub fn prototype(self, name: &str) -> Option<Prototype> {
        self.btf.by_name(name).filter(|found| found.kind == Kind::Func).find_map(|function| {
            let proto = self.btf.by_number(function.target()?)?;
            if proto.kind != Kind::FuncProto {
                return None;
            }
            let mut parameters = Vec::new();
            let mut texts = Vec::new();
            let mut variadic = false;
            for (name, kind) in proto.pairs() {
                // The dots are a last parameter without name and type.
                if (name, kind) == (0, 0) {
                    variadic = true;
                    texts.push("...".to_owned());
                    continue;
                }
                let name = self.btf.string(name)?;
                let kind = self.c_type(kind, DEEPEST);
                let space = if kind.ends_with('*') { "" } else { " " };
                texts.push(format!("{kind}{space}{name}"));
                parameters.push(name.to_owned());
            }
            let returned = self.c_type(proto.target()?, DEEPEST);
            Some(Prototype { parameters, variadic, text: format!("{returned} ({})", texts.join(", ")) })
        })
    }

    fn structure(self, name: &str) -> Option<Type<'a>> {
        self.btf.by_name(name).find(|found| is_structure(*found))
    }

    /// A member's offset in bits and its type, also inside anonymous structs and unions.
    fn member(self, structure: Type<'a>, name: &str, depth: u32) -> Option<(u32, u32)> {
        for (member, kind, offset) in structure.members() {
            let own = self.btf.string(member).unwrap_or_default();
            if own == name {
                return Some((offset, kind));
            }
            if own.is_empty()
                && let Some(depth) = depth.checked_sub(1)
                && let Some(anonymous) = self.as_structure(kind)
                && let Some((inner, kind)) = self.member(anonymous, name, depth)
            {
                return Some((offset.checked_add(inner)?, kind));
            }
        }
        None
    }

    /// The struct or union behind typedefs, qualifiers and arrays.
    fn as_structure(self, id: u32) -> Option<Type<'a>> {
        let mut current = self.btf.by_number(id)?;
        for _ in 0..DEEPEST {
            if is_structure(current) {
                return Some(current);
            }
            current = self.btf.by_number(current.target()?)?;
        }
        None
    }

    /// A type as C writes it, as far as function parameters need it.
    fn c_type(self, id: u32, depth: u32) -> String {
        if id == 0 {
            return "void".to_owned();
        }
        let Some((found, depth)) = self.btf.by_number(id).zip(depth.checked_sub(1)) else { return "?".to_owned() };
        let name = self.btf.name(found);
        let inner = || found.target().map_or_else(|| "void".to_owned(), |id| self.c_type(id, depth));
        match found.kind {
            Kind::Struct => format!("struct {name}"),
            Kind::Union => format!("union {name}"),
            Kind::Enum | Kind::Enum64 => format!("enum {name}"),
            Kind::Fwd => format!("{} {name}", if found.flag { "union" } else { "struct" }),
            Kind::Ptr => {
                let target = inner();
                let space = if target.ends_with('*') { "" } else { " " };
                format!("{target}{space}*")
            }
            Kind::Const => format!("const {}", inner()),
            Kind::Volatile => format!("volatile {}", inner()),
            _ => name.to_owned(),
        }
    }
}

/// How many types may be behind each other before it is taken for a circle; the kernel's longest chains have some ten.
const DEEPEST: u32 = 32;

const fn is_structure(found: Type<'_>) -> bool {
    matches!(found.kind, Kind::Struct | Kind::Union)
}
