package source

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/simplifiedchinese"
	textunicode "golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"

	"github.com/tunefleet/tunefleet/schemas"
)

// sniffBytes is how much of a file decides about its encoding.
const sniffBytes = 1 << 20

// Names of encodings as Options.Encoding takes them.
const (
	UTF8    = "utf-8"
	UTF16LE = "utf-16le"
	UTF16BE = "utf-16be"
	GB18030 = "gb18030"
)

// Encodings lists the names.
func Encodings() []string { return []string{UTF8, UTF16LE, UTF16BE, GB18030} }

// canonical is the name that this package gives an encoding, however it is written. GB18030 holds GBK and GB2312.
func canonical(name string) string {
	bare := func(s string) string { return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s)) }
	switch b := bare(name); b {
	case "gbk", "gb2312", "cp936":
		return GB18030
	default:
		if i := slices.IndexFunc(Encodings(), func(n string) bool { return bare(n) == b }); i >= 0 {
			return Encodings()[i]
		}
	}
	return name
}

// detect names the encoding of a file by its beginning; whole says that head is all of it. "" means that none fits.
func detect(head []byte, whole bool) string {
	switch {
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf")):
		return UTF8
	case bytes.HasPrefix(head, []byte("\xff\xfe\x00\x00")), bytes.HasPrefix(head, []byte("\x00\x00\xfe\xff")):
		return "" // UTF-32
	case bytes.HasPrefix(head, []byte("\xff\xfe")):
		return UTF16LE
	case bytes.HasPrefix(head, []byte("\xfe\xff")):
		return UTF16BE
	}
	if validUTF8(head, whole) {
		if name := zeros(head); name != "" {
			return name // ASCII in UTF-16 is valid UTF-8, with a NUL beside every letter
		}
		return UTF8
	}
	if name := zeros(head); name != "" {
		return name
	}
	if plausibleGB18030(head) {
		return GB18030
	}
	return ""
}

// validUTF8 allows a rune that the end of the sample cuts.
func validUTF8(b []byte, whole bool) bool {
	if !whole {
		for i := 0; i < utf8.UTFMax && i < len(b); i++ {
			if utf8.RuneStart(b[len(b)-1-i]) {
				if !utf8.FullRune(b[len(b)-1-i:]) {
					b = b[:len(b)-1-i]
				}
				break
			}
		}
	}
	return utf8.Valid(b)
}

// zeros recognizes UTF-16 without a mark: in text that has Latin letters or digits, a good part of the bytes on one side are NUL, on the
// other hardly any.
func zeros(head []byte) string {
	pairs := len(head) / 2
	if pairs < 4 {
		return ""
	}
	var even, odd int
	for i := range pairs {
		if head[2*i] == 0 {
			even++
		}
		if head[2*i+1] == 0 {
			odd++
		}
	}
	switch {
	case 10*odd > 3*pairs && 100*even < pairs:
		return UTF16LE
	case 10*even > 3*pairs && 100*odd < pairs:
		return UTF16BE
	}
	return ""
}

// plausibleGB18030 decodes the sample and asks for what Chinese text looks like: no byte that does not fit, and letters that are nearly all
// ASCII or Han. Latin-1 text read as GB18030 gives errors or odd characters.
func plausibleGB18030(head []byte) bool {
	out, err := simplifiedchinese.GB18030.NewDecoder().Bytes(head)
	if err != nil {
		return false
	}
	text := string(out)
	if i := strings.IndexRune(text, utf8.RuneError); i >= 0 && i < len(text)-8 {
		return false // only the sample's end may be cut
	}
	var han, other int
	for _, r := range text {
		switch {
		case r < 0x80:
		case unicode.Is(unicode.Han, r), r >= 0x3000 && r <= 0x303f, r >= 0xff00 && r <= 0xffef, unicode.IsPunct(r):
			han++
		default:
			other++
		}
	}
	return han > 0 && 10*other <= han
}

// decodeText makes UTF-8 of a file. The returned reader starts after a byte-order mark. name is for messages; want is an encoding, or ""
// to find out.
func decodeText(name string, r io.Reader, want string) (io.Reader, error) {
	b := bufio.NewReaderSize(r, sniffBytes)
	if want == "" {
		head, err := b.Peek(sniffBytes)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if want = detect(head, errors.Is(err, io.EOF)); want == "" {
			return nil, schemas.Errorf(schemas.CodeData, name, "the encoding is none of %s, or several are mixed", strings.Join(Encodings(), ", ")).
				WithHint("convert the file to UTF-8, or name its encoding: the rows that break it are told then")
		}
	}
	var e encoding.Encoding
	switch canonical(want) {
	case UTF8:
		if head, _ := b.Peek(3); bytes.Equal(head, []byte("\xef\xbb\xbf")) {
			_, _ = b.Discard(3)
		}
		return b, nil // rows are checked one by one
	case UTF16LE:
		e = textunicode.UTF16(textunicode.LittleEndian, textunicode.UseBOM)
	case UTF16BE:
		e = textunicode.UTF16(textunicode.BigEndian, textunicode.UseBOM)
	case GB18030:
		e = simplifiedchinese.GB18030
	default:
		return nil, schemas.Errorf(schemas.CodeInvalid, name, "unknown encoding %q", want).WithHint("known: %s", strings.Join(Encodings(), ", "))
	}
	return transform.NewReader(b, e.NewDecoder()), nil
}

// textProblem says what is wrong with the text of a row, "" when nothing is. A replacement character in a file that was decoded from
// another encoding stands for bytes that did not fit.
func textProblem(b []byte, decoded bool) string {
	switch {
	case !utf8.Valid(b):
		return "is not valid UTF-8: the file mixes encodings, or is cut"
	case bytes.IndexByte(b, 0) >= 0:
		return "holds a NUL byte"
	case decoded && bytes.Contains(b, []byte("\uFFFD")):
		return "holds bytes that do not fit the file's encoding"
	}
	return ""
}
