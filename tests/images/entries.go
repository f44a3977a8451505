// What Go's archive/tar makes of archives. Standard input: archives, each behind its length (8 bytes, little endian).
// Standard output: for each a line of JSON, {"entries": [[name, type, size, link]...], "error": text}, names in base64.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
)

type answer struct {
	Entries [][4]interface{} `json:"entries"`
	Error   string           `json:"error"`
}

func list(data []byte) (found answer) {
	reader := tar.NewReader(bytes.NewReader(data))
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return
		}
		if err == nil {
			_, err = io.Copy(io.Discard, reader)
		}
		if err != nil {
			found.Error = err.Error()
			return
		}
		if header.Typeflag != tar.TypeXGlobalHeader {
			found.Entries = append(found.Entries, [4]interface{}{
				[]byte(header.Name), []byte{header.Typeflag}, header.Size, []byte(header.Linkname)})
		}
	}
}

func main() {
	input := bufio.NewReader(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	for {
		var length uint64
		if binary.Read(input, binary.LittleEndian, &length) != nil {
			return
		}
		data := make([]byte, length)
		if _, err := io.ReadFull(input, data); err != nil {
			return
		}
		output.Encode(list(data))
	}
}
