//! What the running kernel says of its own types: BTF of the kernel image and of the modules whyrst looks at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use btf_rs::{Btf, BtfType, Struct, Type};

/// Where the kernel shows its BTF.
pub const DIRECTORY: &str = "/sys/kernel/btf";

/// Type descriptions of the kernel image, and of one module on top of it.
pub struct KernelBtf {
    image: Btf,
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
        source: btf_rs::Error,
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
        let image = Btf::from_bytes(&bytes).map_err(|source| BtfError::Unreadable { path, source })?;
        Ok(Self { image, directory: directory.to_path_buf() })
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
        let btf = Btf::from_split_bytes(&bytes, &self.image).map_err(|source| BtfError::Unreadable { path, source })?;
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

impl Types<'_> {
    /// The byte offset of `path` in `struct name`: members separated by dots, anonymous members left out.
    pub fn offset(self, name: &str, path: &str) -> Option<u32> {
        let mut current = self.structure(name)?;
        let mut bits = 0;
        let mut members = path.split('.').peekable();
        while let Some(member) = members.next() {
            let (offset, inner) = self.member(&current, member)?;
            bits += offset;
            if members.peek().is_some() {
                current = self.as_structure(inner?)?;
            }
        }
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// The size of `struct name` in bytes.
    pub fn size(self, name: &str) -> Option<u32> {
        u32::try_from(self.structure(name)?.size()).ok()
    }

    /// Whether a struct, union or enum of that name is known.
    pub fn has_type(self, name: &str) -> bool {
        self.named(name)
            .any(|found| matches!(found, Type::Struct(_) | Type::Union(_) | Type::Enum(_) | Type::Enum64(_)))
    }

    /// Names and values of an enumeration.
    pub fn enumeration(self, name: &str) -> Option<Vec<(String, u32)>> {
        self.named(name).find_map(|found| match found {
            Type::Enum(found) => {
                found.members.iter().map(|member| Some((self.btf.resolve_name(member).ok()?, member.val()))).collect()
            }
            _ => None,
        })
    }

    /// The prototype of the function `name`.
    pub fn prototype(self, name: &str) -> Option<Prototype> {
        self.named(name).find_map(|found| {
            let Type::Func(function) = found else { return None };
            let Ok(Type::FuncProto(proto)) = self.btf.resolve_chained_type(&function) else { return None };
            let mut parameters = Vec::new();
            let mut texts = Vec::new();
            let mut variadic = false;
            for parameter in &proto.parameters {
                if parameter.is_variadic() {
                    variadic = true;
                    texts.push("...".to_owned());
                    continue;
                }
                let name = self.btf.resolve_name(parameter).ok()?;
                let kind = self.c_type(parameter.get_type_id()?);
                let space = if kind.ends_with('*') { "" } else { " " };
                texts.push(format!("{kind}{space}{name}"));
                parameters.push(name);
            }
            let returned = self.c_type(proto.return_type_id());
            Some(Prototype { parameters, variadic, text: format!("{returned} ({})", texts.join(", ")) })
        })
    }

    fn named(self, name: &str) -> impl Iterator<Item = Type> {
        self.btf.resolve_types_by_name(name).unwrap_or_default().into_iter()
    }

    fn structure(self, name: &str) -> Option<Struct> {
        self.named(name).find_map(|found| match found {
            Type::Struct(found) | Type::Union(found) => Some(found),
            _ => None,
        })
    }

    /// A member's offset in bits and type, also inside anonymous structs and unions.
    fn member(self, structure: &Struct, name: &str) -> Option<(u32, Option<Type>)> {
        for member in &structure.members {
            let own = self.btf.resolve_name(member).unwrap_or_default();
            let inner = self.btf.resolve_chained_type(member).ok();
            if own == name {
                return Some((member.bit_offset(), inner));
            }
            if own.is_empty()
                && let Some(anonymous) = inner.and_then(|inner| self.as_structure(inner))
                && let Some((offset, inner)) = self.member(&anonymous, name)
            {
                return Some((member.bit_offset() + offset, inner));
            }
        }
        None
    }

    /// The struct or union behind typedefs, qualifiers and arrays.
    fn as_structure(self, from: Type) -> Option<Struct> {
        let mut current = from;
        loop {
            current = match current {
                Type::Struct(found) | Type::Union(found) => return Some(found),
                other => self.btf.resolve_chained_type(other.as_btf_type()?).ok()?,
            };
        }
    }

    /// A type as C writes it, as far as function parameters need it.
    fn c_type(self, id: u32) -> String {
        if id == 0 {
            return "void".to_owned();
        }
        let Ok(found) = self.btf.resolve_type_by_id(id) else { return "?".to_owned() };
        let name = found.as_btf_type().and_then(|named| self.btf.resolve_name(named).ok()).unwrap_or_default();
        let inner =
            || found.as_btf_type().and_then(BtfType::get_type_id).map_or("void".to_owned(), |id| self.c_type(id));
        match &found {
            Type::Struct(_) => format!("struct {name}"),
            Type::Union(_) => format!("union {name}"),
            Type::Enum(_) | Type::Enum64(_) => format!("enum {name}"),
            Type::Fwd(forward) => format!("{} {name}", if forward.is_union() { "union" } else { "struct" }),
            Type::Ptr(_) => {
                let target = inner();
                let space = if target.ends_with('*') { "" } else { " " };
                format!("{target}{space}*")
            }
            Type::Const(_) => format!("const {}", inner()),
            Type::Volatile(_) => format!("volatile {}", inner()),
            _ => name,
        }
    }
}
