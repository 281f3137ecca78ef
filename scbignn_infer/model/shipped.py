"""The shipped models, by the checksums of their records, which hold those of all files.

``training/tables/make_shipped.py`` writes this file, once it has checked them whole.
"""

SHIPPED = frozenset(
    {
        # human-body
        "44064407f4f56eab815182d9453418f5bcaf376259282d4d3f00c4afdb669e54",
        # human-lung-cancer-lines
        "4647165aebd6905c1eccd74686015db8ba715bcdae09dfaa0bcecec329d6e8ab",
        # human-pancreas
        "054e12665fecc28f85e10bdcdb2c1bbcc5908504aa831946a83edeb222c3616d",
        # human-pbmc
        "3a34e0a67583a160c2a0fcf7bcee8866d33748c95641b144342566ad9ea1cb96",
        # mouse-body
        "ea54a636ca1bfbe71f31e756b1b37164f0e70cce7f8dd6a9018b1339f74a3f1b",
        # mouse-pancreas
        "5fcf32c00f9ed1250e5a4ab8b09b7ecd4d9f018870261ae330463c6a02d33d2f",
    }
)
