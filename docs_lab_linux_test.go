package claudebalancer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/claude-balancer/claude-balancer/simulator"
)

// The lab is a copy of this machine in which the documentation's commands run as
// they are written: on the ports and paths that they name, against hosts of the
// names that they name, as root. It is made of Linux namespaces, so nothing of
// what happens in it is there afterwards: its file system takes writes into
// memory, its network has a loopback only, its processes end with it.

// inLab makes this test binary run inside: its value is an empty folder.
const inLab = "CLAUDE_BALANCER_TEST_IN_LAB"

// enterLab runs this test again, inside, and shows what it said.
func enterLab(t *testing.T, caddy string) {
	t.Helper()
	inside := exec.Command(os.Args[0], "-test.run", flag.Lookup("test.run").Value.String(), "-test.v")
	if !strings.Contains(inside.Args[2], "/") { // else it names pages
		inside.Args[2] = "^" + t.Name() + "$"
	}
	inside.Env = append(os.Environ(), inLab+"="+t.TempDir(), "CLAUDE_BALANCER_TEST_CADDY="+caddy)
	for name, value := range goFolders(t) {
		inside.Env = append(inside.Env, name+"="+value)
	}
	inside.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		inside.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		inside.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		inside.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	inside.Stdout, inside.Stderr = t.Output(), t.Output()
	if err := inside.Run(); err != nil {
		t.Fatalf("in the lab: %v", err)
	}
}

// goFolders are where Go is and keeps what it has: the lab has a HOME of its own.
func goFolders(t *testing.T) map[string]string {
	t.Helper()
	folders := make(map[string]string)
	for _, name := range []string{"GOROOT", "GOMODCACHE", "GOCACHE"} {
		folders[name] = strings.TrimSpace(goCommand(t, "env", name))
	}
	return folders
}

func goCommand(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "HOME="+userHome)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// buildLab makes the process's own namespaces the lab.
func buildLab(t *testing.T) {
	t.Helper()
	dir := os.Getenv(inLab)
	checkout, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	caddy, err := os.ReadFile(os.Getenv("CLAUDE_BALANCER_TEST_CADDY"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	check("keep mounts private", syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	check("mount memory", syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"))
	root := filepath.Join(dir, "root")
	check("copy the machine", writable(dir, "machine", "/", root))
	for _, name := range []string{"tmp", "run"} { // before what may lie in them
		check("mount memory", syscall.Mount("tmpfs", filepath.Join(root, name), "tmpfs", 0, "mode=1777"))
	}
	for _, name := range []string{"GOROOT", "GOMODCACHE", "GOCACHE"} {
		check("bind "+name, bind(os.Getenv(name), root))
	}
	check("bind devices", bind("/dev", root))
	check("copy the checkout", writable(dir, "checkout", checkout, filepath.Join(root, checkout)))
	check("mount /proc", syscall.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""))
	check("change the root", syscall.Chroot(root))
	check("go to the checkout", os.Chdir(checkout))
	check("put Caddy in place", os.WriteFile("/usr/local/bin/caddy", caddy, 0o755))
	check("bring up the loopback", loopbackUp())
}

// writable mounts a copy of a folder that takes writes into memory.
func writable(dir, name, source, target string) error {
	upper, work := filepath.Join(dir, name+"-upper"), filepath.Join(dir, name+"-work")
	for _, folder := range []string{upper, work, target} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	return syscall.Mount("overlay", target, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", source, upper, work))
}

func bind(folder, root string) error {
	target := filepath.Join(root, folder)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	return syscall.Mount(folder, target, "", syscall.MS_BIND|syscall.MS_REC, "")
}

func loopbackUp() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	request := struct { // struct ifreq
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: syscall.IFF_UP | syscall.IFF_RUNNING}
	copy(request.name[:], "lo")
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

// The provider has an address of its own in the lab.
const (
	providerAddress = "127.0.0.2"
	providerHosts   = "api.anthropic.com platform.claude.com claude.com"
)

// startProvider puts the simulator where the real provider is, with a
// certificate for its names. The authority is in the file that is returned.
func startProvider(t *testing.T, sim *simulator.Simulator) (authority string) {
	t.Helper()
	hosts := "127.0.0.1 localhost claude.example.com\n::1 localhost\n" + providerAddress + " " + providerHosts + "\n" + databaseAddress + " " + databaseHost + "\n"
	if err := os.WriteFile("/etc/hosts", []byte(hosts), 0o644); err != nil {
		t.Fatal(err)
	}
	certificate := certificateFor(t, strings.Fields(providerHosts)...)
	authority = filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(authority, certificatePEM(certificate), 0o644); err != nil {
		t.Fatal(err)
	}
	// Caddy listens on the same port of all addresses, and allows that, too.
	const reusePort = 15
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlled := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1) })
		if controlled != nil {
			return controlled
		}
		return err
	}}
	listener, err := config.Listen(t.Context(), "tcp", providerAddress+":443")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: sim, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}
	go func() { _ = srv.ServeTLS(listener, "", "") }() // ends with the test
	t.Cleanup(func() { _ = srv.Close() })
	return authority
}

func certificatePEM(c tls.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
}

// certificateFor makes a certificate that is its own authority.
func certificateFor(t *testing.T, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// The database server of the lab.
const (
	databaseAddress = "127.0.0.3"
	databaseHost    = "db.example.com"
	databaseFolder  = "/var/lib/lab-database"
)

// startDatabase starts a PostgreSQL server with TLS and adds its authority to
// the file. It reports whether there is one to start: PostgreSQL has to be
// installed, and refuses to run as root.
func startDatabase(t *testing.T, authority string) bool {
	t.Helper()
	binaries, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	account, err := user.Lookup("postgres")
	if len(binaries) == 0 || err != nil {
		return false
	}
	bin := binaries[len(binaries)-1]
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	as := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir = databaseFolder
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		return cmd
	}

	certificate := certificateFor(t, databaseHost)
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	known, err := os.ReadFile(authority)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(databaseFolder, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string][]byte{
		filepath.Join(databaseFolder, "server.crt"): certificatePEM(certificate),
		filepath.Join(databaseFolder, "server.key"): pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		authority: bytes.Join([][]byte{known, certificatePEM(certificate)}, nil),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{databaseFolder, filepath.Join(databaseFolder, "server.crt"), filepath.Join(databaseFolder, "server.key")} {
		if err := os.Chown(path, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(databaseFolder, "data")
	if out, err := as("initdb", "-D", data, "-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	server := as("postgres", "-D", data, "-c", "fsync=off", "-c", "listen_addresses="+databaseAddress, "-c", "unix_socket_directories="+databaseFolder,
		"-c", "ssl=on", "-c", "ssl_cert_file=../server.crt", "-c", "ssl_key_file=../server.key")
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	(&rig{t: t}).eventually("the database answers", func() bool {
		return exec.Command(filepath.Join(bin, "pg_isready"), "-q", "-h", databaseFolder).Run() == nil
	})
	return true
}
