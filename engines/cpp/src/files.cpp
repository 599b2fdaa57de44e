#include "files.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <system_error>

#include "ptq_export/error.h"
#include "utf8.h"

namespace ptq_export {

namespace fs = std::filesystem;

namespace {

char const* kind_of(fs::file_type type) {
  switch (type) {
    case fs::file_type::directory:
      return "folder";
    case fs::file_type::fifo:
      return "named pipe";
    case fs::file_type::socket:
      return "socket";
    default:
      return "device";
  }
}

bool leads_out(fs::path const& folder, fs::path const& name) {
  if (name.is_absolute() || std::find(name.begin(), name.end(), "..") != name.end()) return true;
  fs::path const base = fs::canonical(folder);
  fs::path const found = fs::weakly_canonical(base / name);
  return std::mismatch(base.begin(), base.end(), found.begin(), found.end()).first != base.end();
}

}  // namespace

fs::path inside(fs::path const& folder, std::string const& name) {
  try {
    if (name.find('\0') != std::string::npos) throw fs::filesystem_error("a NUL", std::error_code());
    if (!leads_out(folder, name)) return folder / name;
  } catch (fs::filesystem_error const& error) {  // too long, a circle of links
    throw InputError("'" + shortened(name, 80) + "' is no file name of " + folder.string() + ": " +
                     error.code().message());
  }
  throw InputError("'" + printable(name) + "' leads out of " + folder.string(),
                   "a run folder names and reads its own files only");
}

std::uintmax_t regular_size(fs::path const& file) {
  std::error_code error;
  fs::file_status const status = fs::status(file, error);
  if (status.type() == fs::file_type::not_found) throw InputError(file.string() + " does not exist");
  if (status.type() != fs::file_type::none && !fs::is_regular_file(status))
    throw InputError(file.string() + " is a " + kind_of(status.type()), "give a regular file");
  std::uintmax_t const size = error ? 0 : fs::file_size(file, error);
  if (error) throw InputError(file.string() + " cannot be read: " + error.message());
  return size;
}

std::string read_bytes(fs::path const& file, std::size_t most) {
  std::uintmax_t const size = regular_size(file);
  if (size > most) throw InputError(file.string() + " has " + std::to_string(size) + " bytes: too many");
  std::ifstream stream(file, std::ios::binary);
  std::string bytes(static_cast<std::size_t>(size), '\0');
  stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!stream) throw InputError(file.string() + " cannot be read");
  return bytes;
}

fs::path data_beside(fs::path const& file) { return file.string() + ".data"; }

fs::path prompt_beside(fs::path const& file) {
  return file.parent_path() / (file.stem().string() + ".prompt" + file.extension().string());
}

void write_atomically(fs::path const& file, std::string const& bytes) {
  std::string temporary = (file.parent_path() / ("." + file.filename().string() + ".XXXXXX")).string();
  int const handle = mkstemp(temporary.data());
  if (handle < 0) throw InputError("cannot write " + file.string() + ": " + std::strerror(errno));
  close(handle);
  std::ofstream stream(temporary, std::ios::binary);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  stream.close();
  std::error_code error;
  if (stream) fs::permissions(temporary, static_cast<fs::perms>(0644), error);
  if (stream && !error) fs::rename(temporary, file, error);
  if (!stream || error) {
    fs::remove(temporary, error);
    throw InputError("cannot write " + file.string(), "free some disk space and run again");
  }
}

}  // namespace ptq_export
