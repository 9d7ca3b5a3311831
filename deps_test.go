package claudebalancer

import _ "pgregory.net/rapid"
