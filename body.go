package claudebalancer

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// requestBody is a request's body in memory. It is let go when nobody can need
// it any more: each try's reader and the request itself hold it, since an
// HTTP/1.1 transport may go on reading after RoundTrip has returned.
type requestBody struct {
	data    []byte
	rest    io.Reader // what is left of an upload too large to keep; single use
	length  int64     // as announced upstream; -1 = unknown
	refs    atomic.Int32
	account *atomic.Int64 // bytes that all buffered bodies of the handler hold
	held    int64
}

var (
	errBodyTooLarge   = errors.New("request body too large")
	errBodiesTooLarge = errors.New("too many request bodies in memory")
	errBodyStalled    = errors.New("request body stalled")
	errBodyUnreadable = errors.New("request body cannot be read")
)

// Buffers of the sizes 16 KiB, 64 KiB, … 1 MiB are used again. A smaller one is
// the garbage collector's: then nobody has to know when a transport has done
// with it, and net/http sends the body together with the request's header.
const (
	minPooledBuffer = 16 << 10
	maxPooledBuffer = 1 << 20
	bufferClasses   = 4
	firstBuffer     = minPooledBuffer
	smallBuffer     = 4 << 10
)

var bufferPools [bufferClasses]sync.Pool

// bodyLimits bounds what a request may hold in memory.
type bodyLimits struct {
	one     int64 // bytes of one body
	all     int64 // bytes of all bodies of the handler together
	account *atomic.Int64
	stream  bool // a body above the bound is passed on unread instead of refused
}

// readBody reads the body once. Its error is one of the errors above, or the
// client's connection's.
func readBody(r *http.Request, limits bodyLimits) (*requestBody, error) {
	b := &requestBody{account: limits.account, length: r.ContentLength}
	b.refs.Store(1)
	if r.Body == nil || r.Body == http.NoBody {
		b.length = 0
		return b, nil
	}
	if r.ContentLength > limits.one {
		if !limits.stream {
			return nil, errBodyTooLarge
		}
		b.rest = r.Body
		return b, nil
	}
	if err := b.fill(r.Body, limits); err != nil {
		b.release()
		return nil, err
	}
	if b.rest == nil {
		b.length = int64(len(b.data))
	}
	return b, nil
}

func (b *requestBody) fill(src io.Reader, limits bodyLimits) error {
	size := b.length
	if size < 0 {
		size = firstBuffer
	}
	// What a client announces is not taken at its word: a large buffer grows
	// with what really arrives.
	if err := b.grow(min(size+1, maxPooledBuffer), limits); err != nil {
		return err
	}
	for {
		if int64(len(b.data)) > limits.one {
			if !limits.stream {
				return errBodyTooLarge
			}
			b.rest = src
			return nil
		}
		if len(b.data) == cap(b.data) {
			if err := b.grow(min(2*int64(cap(b.data)), limits.one+1), limits); err != nil {
				return err
			}
		}
		most := min(int64(cap(b.data)), limits.one+1)
		n, err := src.Read(b.data[len(b.data):most])
		b.data = b.data[:len(b.data)+n]
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return readError(err)
		}
	}
}

// grow moves the data to a buffer of the given capacity and accounts for it.
func (b *requestBody) grow(capacity int64, limits bodyLimits) error {
	if capacity <= int64(cap(b.data)) {
		return nil
	}
	more := capacity - b.held
	if b.account.Add(more) > limits.all {
		b.account.Add(-more)
		return errBodiesTooLarge
	}
	b.held += more
	old := b.data
	b.data = append(takeBuffer(int(capacity)), old...)
	putBuffer(old)
	return nil
}

// takeBuffer returns an empty buffer of at least the capacity.
func takeBuffer(capacity int) []byte {
	if capacity <= smallBuffer {
		return make([]byte, 0, capacity)
	}
	size := minPooledBuffer
	for class := range bufferClasses {
		if capacity <= size {
			if p, ok := bufferPools[class].Get().(*[]byte); ok {
				return (*p)[:0]
			}
			return make([]byte, 0, size)
		}
		size *= 4
	}
	return make([]byte, 0, capacity)
}

func putBuffer(buf []byte) {
	size := minPooledBuffer
	for class := range bufferClasses {
		if cap(buf) == size {
			buf = buf[:0]
			bufferPools[class].Put(&buf)
			return
		}
		size *= 4
	}
}

func readError(err error) error {
	var tooLarge *http.MaxBytesError
	var handler caddyhttp.HandlerError
	switch {
	case errors.As(err, &tooLarge):
		return errBodyTooLarge
	case errors.As(err, &handler) && handler.StatusCode == http.StatusRequestEntityTooLarge:
		return errBodyTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errBodyStalled
	}
	return errors.Join(errBodyUnreadable, err)
}

// open returns a reader for one try.
func (b *requestBody) open() io.ReadCloser {
	if b.rest != nil {
		return io.NopCloser(io.MultiReader(bytes.NewReader(b.data), b.rest))
	}
	if len(b.data) == 0 {
		return http.NoBody
	}
	if cap(b.data) <= smallBuffer {
		return io.NopCloser(bytes.NewReader(b.data)) // net/http knows these types
	}
	b.refs.Add(1)
	reader := &bodyReader{body: b}
	reader.data.Reset(b.data)
	return reader
}

// repeatable reports whether the body can be sent more than once.
func (b *requestBody) repeatable() bool { return b.rest == nil }

// drop empties the body of a request that needs none.
func (b *requestBody) drop() { b.data, b.rest, b.length = b.data[:0], nil, 0 }

// release drops one hold. The last one gives the buffer back.
func (b *requestBody) release() {
	if b.refs.Add(-1) > 0 {
		return
	}
	b.account.Add(-b.held)
	putBuffer(b.data)
	b.data = nil
}

// bodyReader is one try's view of the body. Reading after Close fails, since
// the buffer may be somebody else's by then.
type bodyReader struct {
	mu     sync.Mutex
	data   bytes.Reader
	body   *requestBody
	closed bool
}

func (r *bodyReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return r.data.Read(p)
}

func (r *bodyReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		r.data.Reset(nil)
		r.body.release()
	}
	return nil
}

// plain returns the body as JSON text to read the model from: a decoded copy
// if it is compressed, nil if that is not possible. The original goes upstream.
func (b *requestBody) plain(encoding string, limit int64) []byte {
	var decoder io.Reader
	var err error
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return b.data
	case "gzip", "x-gzip":
		decoder, err = gzip.NewReader(bytes.NewReader(b.data))
	case "deflate":
		decoder, err = zlib.NewReader(bytes.NewReader(b.data))
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(decoder, limit+1))
	if err != nil || int64(len(text)) > limit {
		return nil
	}
	return text
}
