// SPDX-License-Identifier: MIT

// A guest handed to ufdd by ufd-protocol(7) alone: nothing but the standard library.
//
//	go run client.go NAME SAVED-MEMORY
//
// Each byte of anonymous memory is compared with the file that it comes from: half of them at once,
// the rest after a line of input. Kill ufdd meanwhile, and start it again: the guest waits, and goes on.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime/debug"
	"syscall"
	"time"
	"unsafe"
)

const page, userfaultfdIocNew, uffdioAPI = 4096, 0xaa00, 0xc018aa3f

type object map[string]interface{}

type guest struct {
	name           string
	ram            []byte
	saved, pagemap *os.File
	uffd           uintptr
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func open(path string) *os.File {
	file, err := os.Open(path)
	must(err)
	return file
}

func openUserfaultfd() uintptr {
	device := open("/dev/userfaultfd")
	defer device.Close()
	uffd, _, errno := syscall.Syscall(syscall.SYS_IOCTL, device.Fd(), userfaultfdIocNew,
		syscall.O_CLOEXEC|syscall.O_NONBLOCK)
	for _, features := range []uint64{0xb109, 0x1109} {
		api := [3]uint64{0xaa, features, 0}
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, uffd, uffdioAPI,
			uintptr(unsafe.Pointer(&api)))
		if errno == 0 {
			return uffd
		}
	}
	log.Fatal("UFFDIO_API: ", errno)
	return 0
}

// Each call has a connection of its own, which is there afterwards: its end is that of ufdd.
func call(method string, parameters object, fds ...int) (*net.UnixConn, error) {
	path := os.Getenv("UFD_SOCKET")
	if path == "" {
		path = "/run/ufd/io.ufd.manager"
	}
	connection, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	message, _ := json.Marshal(object{"method": method, "parameters": parameters})
	connection.WriteMsgUnix(append(message, 0), syscall.UnixRights(fds...), nil)
	reply := object{}
	text, err := bufio.NewReader(connection).ReadBytes(0)
	if err == nil {
		err = json.Unmarshal(text[:len(text)-1], &reply)
	}
	if err == nil && reply["error"] != nil {
		err = fmt.Errorf("ufdd refuses: %v %v", reply["error"], reply["parameters"])
	}
	if err != nil {
		connection.Close()
	}
	return connection, err
}

func (g *guest) attach(populated string) (*net.UnixConn, error) {
	region := object{"memory": "ram", "address": uintptr(unsafe.Pointer(&g.ram[0])),
		"length_bytes": len(g.ram), "source": "file:", "source_fd": 2}
	settings := object{"populated": populated, "background": false}
	return call("io.ufd.guest.Attach", object{"name": g.name, "uffd": 0, "pagemap": 1,
		"regions": []object{region}, "settings": settings},
		int(g.uffd), int(g.pagemap.Fd()), int(g.saved.Fd()))
}

// Touches no paged memory. Nothing comes unasked: Read() returns at the end of the connection.
func (g *guest) watch(connection *net.UnixConn) {
	for {
		connection.Read(make([]byte, 1))
		connection.Close()
		log.Print("ufdd is gone")
		for err := io.EOF; err != nil; connection, err = g.attach("keep") {
			time.Sleep(100 * time.Millisecond)
		}
		log.Print("ufdd is back")
	}
}

func main() {
	// The collector of garbage stops every thread, and would wait for one that waits for its page,
	// and watch() with it. Without: let system calls (KVM_RUN, write) touch paged memory.
	debug.SetGCPercent(-1)
	if len(os.Args) != 3 {
		log.Fatal("usage: client NAME SAVED-MEMORY")
	}
	g := guest{name: os.Args[1], saved: open(os.Args[2]), pagemap: open("/proc/self/pagemap"),
		uffd: openUserfaultfd()}
	info, err := g.saved.Stat()
	must(err)
	g.ram, err = syscall.Mmap(-1, 0, int(info.Size()/page*page), syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON)
	must(err)
	connection, err := g.attach("refuse")
	must(err)
	go g.watch(connection)

	buffer := make([]byte, page)
	for at := 0; at < len(g.ram); at += page {
		if at == len(g.ram)/2/page*page {
			log.Print("half is as saved; a line goes on")
			bufio.NewReader(os.Stdin).ReadString('\n')
		}
		_, err = g.saved.ReadAt(buffer, int64(at))
		must(err)
		if !bytes.Equal(buffer, g.ram[at:at+page]) {
			log.Fatalf("the page at %d is wrong", at)
		}
	}

	_, err = call("io.ufd.guest.Detach", object{"name": g.name})
	must(err)
	fmt.Printf("%d bytes are as saved\n", len(g.ram))
}
