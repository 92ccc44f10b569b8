package config

import (
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// maxMetadata bounds what is read of a file that tells where another one came from; maxAbove is how many folders up it is looked for.
const (
	maxMetadata = 4 << 10
	maxAbove    = 4
)

// promised is the SHA-256 that a hub told of a file on this machine, "" where none is known. The client of the Hugging Face hub leaves it in two
// places: a large file of its cache is a link to a blob of that name; a folder that it downloaded into has .cache/huggingface/download with a
// file of three lines for each (commit, ETag, time), whose ETag is the SHA-256 of a large file. Like that client, a file that was changed after
// that time is taken for the user's own.
func promised(local string) string {
	if target, err := filepath.EvalSymlinks(local); err == nil && filepath.Base(filepath.Dir(target)) == "blobs" && schemas.ValidSHA256(filepath.Base(target)) {
		return filepath.Base(target)
	}
	info, err := os.Stat(local)
	if err != nil {
		return ""
	}
	dir, rel := filepath.Split(local)
	for range maxAbove {
		dir = filepath.Clean(dir)
		if sum, at := downloaded(filepath.Join(dir, ".cache", "huggingface", "download", rel+".metadata")); sum != "" {
			if info.ModTime().After(at.Add(time.Second)) {
				return ""
			}
			return sum
		}
		rel = filepath.Join(filepath.Base(dir), rel)
		dir = filepath.Dir(dir)
	}
	return ""
}

// downloaded reads the SHA-256 and the time of a download; "" when the file is not there, or tells no SHA-256.
func downloaded(metadata string) (sum string, at time.Time) {
	info, err := os.Stat(metadata)
	if err != nil || info.Size() > maxMetadata {
		return "", at
	}
	raw, err := os.ReadFile(metadata)
	if err != nil {
		return "", at
	}
	lines := strings.Fields(string(raw))
	if len(lines) != 3 || !schemas.ValidSHA256(lines[1]) {
		return "", at
	}
	seconds, err := strconv.ParseFloat(lines[2], 64)
	if err != nil {
		return "", at
	}
	return lines[1], time.UnixMicro(int64(seconds * 1e6))
}

// keptPromise refuses a file whose bytes are not those that the hub told of: damaged on its way or on the disk, with the right size.
func keptPromise(local, sum string) error {
	want := promised(local)
	if want == "" || want == sum {
		return nil
	}
	code := schemas.CodeData
	if path.Ext(local) == ".safetensors" {
		code = schemas.CodeModel
	}
	return schemas.Errorf(code, local, "is damaged: the hub that it came from told the SHA-256 %s, and its bytes have %s", want, sum).
		WithHint("delete the file and download it again")
}
