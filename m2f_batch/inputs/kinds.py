"""Recognizes files that are neither an image nor a list of images, and says what to do, before anything starts."""

from m2f_batch.inputs.names.images import extension_of, path_of

_UNPACK = "unpack it, and give the folder"
_TABLE = "write it as .parquet, .csv or .jsonl with a column 'uri'"
_FRAMES = "write its frames as images, and give their folder"
_PAGES = "write its pages as images, and give their folder"
_ARRAYS = "write its arrays as images, and give their folder"

# extensions: what it is, and what to do with it
_BY_NAME = {
    "tar tgz tbz2 txz": ("a tar archive", _UNPACK),
    "zip 7z rar": ("an archive", _UNPACK),
    "gz bz2 xz zst lz4 br": ("a compressed file", "of those only manifests are read (list.csv.gz); unpack it"),
    "xlsx xls xlsm ods": ("a spreadsheet", "save it as .csv with a column 'uri'"),
    "arrow feather orc avro db sqlite sqlite3 pickle pkl": ("a table or database", _TABLE),
    "pdf ps eps djvu": ("a document", _PAGES),
    "doc docx ppt pptx odt odp": ("a document", _PAGES),
    "svg ai": ("a drawing", "write it as PNG"),
    "mp4 m4v mov avi mkv webm mpg mpeg wmv flv ogv m2ts": ("a video", _FRAMES),
    "npy npz h5 hdf5 mat zarr nc pt pth safetensors": ("a file of arrays", _ARRAYS),
    "tfrecord tfrecords lmdb mdb rec idx beton": ("a file of training records", _ARRAYS),
    "nii mha mhd nrrd dcm dicom": ("a medical image", "write its slices as PNG or TIFF, and give their folder"),
    "xml yaml yml toml ini md rst html htm log py ipynb": ("a text", "a list of images is a .txt, one name a line"),
}
_NAMED = {name: kind for names, kind in _BY_NAME.items() for name in names.split()}
# the first bytes, and where they stand
_BY_BYTES = (
    (b"PAR1", 0, ("Parquet", "give its name the extension .parquet")),
    (b"\x1f\x8b", 0, ("a gzip file", "of those only manifests are read (list.csv.gz); unpack it")),
    (b"BZh", 0, ("a bzip2 file", _UNPACK)),
    (b"\xfd7zXZ\0", 0, ("an xz file", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", 0, ("a zstd file", _UNPACK)),
    (b"PK\x03\x04", 0, ("a zip archive (or a spreadsheet or document, which are such)", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", 0, ("an archive", _UNPACK)),
    (b"Rar!", 0, ("an archive", _UNPACK)),
    (b"ustar", 257, ("a tar archive", _UNPACK)),
    (b"%PDF", 0, ("a document", _PAGES)),
    (b"\x89HDF", 0, ("a file of arrays", _ARRAYS)),
    (b"\x93NUMPY", 0, ("a file of arrays", _ARRAYS)),
    (b"SQLite format 3", 0, ("a table or database", _TABLE)),
    (b"ARROW1", 0, ("a table or database", _TABLE)),
    (b"\x1a\x45\xdf\xa3", 0, ("a video", _FRAMES)),
    (b"ftyp", 4, ("a video", _FRAMES)),
    (b"AVI ", 8, ("a video", _FRAMES)),
)
# Pillow's plug-ins whose ``accept`` knows a file by its first bytes
_PLUGINS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "JPEG2000", "BMP", "DIB", "PPM", "ICO", "MPO")
_HEIC = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"})
_TGA_END = b"TRUEVISION-XFILE.\0"


def foreign_name(name: str) -> tuple[str, str] | None:
    """Returns what a file is by its extension, and what to do with it. None: its name says nothing of the sort.

    >>> foreign_name("shards/shard-000000.tar"), foreign_name("photo.dat")
    (('a tar archive', 'unpack it, and give the folder'), None)
    """
    name = path_of(name)
    extension = extension_of(name)
    inner = extension_of(name.rpartition(".")[0]) if extension in ("gz", "bz2", "xz", "zst") else ""
    return _NAMED["tar"] if inner == "tar" else _NAMED.get(extension)


def foreign_bytes(data: bytes) -> tuple[str, str] | None:
    """Returns the same by a file's first bytes."""
    kind = next((kind for magic, at, kind in _BY_BYTES if data[at : at + len(magic)] == magic), None)
    return None if kind is not None and is_image(data) else kind


def is_image(data: bytes) -> bool:
    """Tells whether a file's bytes begin, or for TGA end, as those of an image do."""
    from PIL import Image

    if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
        return True
    Image.init()
    accepts = (Image.OPEN[name][1] for name in _PLUGINS if name in Image.OPEN)
    start = data[:64].ljust(64, b"\0")
    return data.endswith(_TGA_END) or any(accept is not None and accept(start) for accept in accepts)
